#!lua flags=allow-oom
-- take: turn ready tokens into entries in flight at one worker.
--
-- KEYS[1]  the lane's prefix
-- ARGV     me (a consumer's name), free places, free places that are not kept for others, quantum in
--          entries, quantum in bytes, the most tokens to look at
-- Replies  { taken, left, passed }: per subscription { id, change, entries }, per entry { rank, id, lease
--          number, tries, fields }; tokens that are left; the last one that was passed over because this
--          worker may hold no more of that subscription ('' none)
--
-- Why one script: a token and the entries that it stands for must not part, and credit is read from the
-- queue itself. A token never leaves this script half-used, so no worker can die holding one.

local me, free, spare = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local most, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local now = clock()
local ready = P .. READY
local taken, passed = {}, ''

local function due_again(s, q, n, entries)
  local ids = {}
  local numbers = {}
  for _, row in ipairs(redis.call('XPENDING', q.key, G, '-', '+', n, 'again')) do
    ids[#ids + 1] = row[1]
    numbers[row[1]] = row[4] + 1
  end
  if #ids == 0 then return 0 end
  local names = {}
  for _, id in ipairs(ids) do names[#names + 1] = q.rank .. ':' .. id end
  local tries = redis.call('HMGET', P .. TRIES .. s.id, unpack(names))
  local text = {}
  for i, id in ipairs(ids) do text[id] = tries[i] or '' end
  for _, entry in ipairs(redis.call('XCLAIM', q.key, G, me, 0, unpack(ids))) do
    if entry then
      entries[#entries + 1] = { q.rank, entry[1], numbers[entry[1]], text[entry[1]], entry[2] }
    end
  end
  return #ids
end

local function fresh(q, n, entries)
  local read = redis.call('XREADGROUP', 'GROUP', G, me, 'COUNT', n, 'STREAMS', q.key, '>')
  if not read then return 0 end
  for _, entry in ipairs(read[1][2]) do
    entries[#entries + 1] = { q.rank, entry[1], 1, '', entry[2] }
  end
  return #read[1][2]
end

local tokens = redis.call('XRANGE', ready, '-', '+', 'COUNT', ARGV[6])
for _, token in ipairs(tokens) do
  if free < 1 then break end
  local s = token[2][1] == 's' and load(token[2][2])
  if not s or s.token ~= token[1] then
    redis.call('XDEL', ready, token[1])
  else
    local n, leave = 0, false
    if s.status == 'active' and s.hold <= now then
      weigh(s, me)
      n = math.min(s.limit - s.busy, s.fresh + s.again, most)
      if s.bytes > 0 and s.entries > 0 then
        n = math.min(n, math.max(1, math.floor(most_bytes * s.entries / s.bytes)))
      end
      if n > 0 then
        local room = math.max(spare, s.mine == 0 and math.min(free, 1) or 0)
        if room < 1 then leave = true else n = math.min(n, room) end
      end
    end
    if leave then
      passed = token[1]
    else
      redis.call('XDEL', ready, token[1])
      s.token = false
      if n > 0 then
        local entries, got = {}, 0
        local from, to, step = 1, #s.queues, 1
        -- Every eighth take starts at the bottom, so that a stream of urgent messages starves none.
        if #s.queues > 1 and redis.call('HINCRBY', s.key, 'turn', 1) % 8 == 0 then
          from, to, step = #s.queues, 1, -1
        end
        for i = from, to, step do
          local q = s.queues[i]
          if got < n and q.again > 0 then
            local count = due_again(s, q, math.min(q.again, n - got), entries)
            got, s.again = got + count, s.again - count
          end
          if got < n and q.fresh > 0 then
            local count = fresh(q, math.min(q.fresh, n - got), entries)
            got, s.fresh = got + count, s.fresh - count
          end
        end
        s.busy = s.busy + #entries
        free, spare = free - #entries, spare - #entries
        if #entries > 0 then taken[#taken + 1] = { s.id, s.change, entries } end
      end
      if not arm(s, now) then redis.call('HDEL', s.key, 'token') end
    end
  end
end
return { taken, redis.call('XLEN', ready), passed }
