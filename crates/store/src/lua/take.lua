#!lua flags=allow-oom
-- take: turn ready tokens into entries in flight at one worker.
--
-- KEYS[1]  the lane's prefix
-- ARGV     me (a consumer's name), free places, free places that are not kept for others, quantum in
--          entries, quantum in bytes, the most tokens to look at, where to begin among them ('-', or
--          '(<id>'), bytes that may be taken in all, suspects that may be taken, how often lost makes one
-- Replies  { taken, left, passed, put off }: per subscription { id, change, entries }, per entry { rank, id,
--          lease number, tries, fields }; tokens that are left; the last one that was passed over because
--          this worker may hold no more of that subscription ('' none); suspects that were put off
--
-- Why one script: a token and the entries that it stands for must not part, and credit is read from the
-- queue itself. A token never leaves this script half-used, so no worker can die holding one.

local me, free, spare = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local most, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local bytes, suspects, suspect_after = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local now = clock()
local ready = P .. READY
local taken, passed, put_off = {}, '', 0
local looked, back = 0, ''

local function weight(fields)
  local sum = 0
  for at = 2, #fields, 2 do sum = sum + #fields[at] end
  return sum
end

-- A suspect that this worker may not take now goes aside here and not at the worker: what lies with a worker
-- is counted as lost with it. Each waits a little longer than the one before, so that they come one by one.
local function is_suspect(tries)
  local reclaims = string.match(tries, '^%d+ (%d+)')
  return reclaims and tonumber(reclaims) >= suspect_after
end

local function put_aside(s, q, id)
  put_off = put_off + 1
  redis.call('XCLAIM', q.key, G, 'later', 0, id, 'JUSTID')
  redis.call('ZADD', P .. TIMERS, now + 200 * math.min(put_off, 50), 'later:' .. s.id .. ':' .. q.rank .. ':' .. id)
end

-- Replies how many were taken, and how many are no longer due again.
local function due_again(s, q, n, entries)
  -- Lua cannot pass on more than some thousands at once.
  n = math.min(n, 1000)
  local rows = redis.call('XPENDING', q.key, G, '-', '+', n, 'again')
  if #rows == 0 then return 0, 0 end
  local names = {}
  for i, row in ipairs(rows) do names[i] = q.rank .. ':' .. row[1] end
  local tries = redis.call('HMGET', P .. TRIES .. s.id, unpack(names))
  local ids, numbers, text = {}, {}, {}
  for i, row in ipairs(rows) do
    local id = row[1]
    local suspect = tries[i] and is_suspect(tries[i])
    if suspect and suspects < 1 then
      put_aside(s, q, id)
    else
      if suspect then suspects = suspects - 1 end
      ids[#ids + 1] = id
      numbers[id] = row[4] + 1
      text[id] = tries[i] or ''
    end
  end
  if #ids == 0 then return 0, #rows end
  for _, entry in ipairs(redis.call('XCLAIM', q.key, G, me, 0, unpack(ids))) do
    if entry then
      entries[#entries + 1] = { q.rank, entry[1], numbers[entry[1]], text[entry[1]], entry[2] }
      bytes = bytes - weight(entry[2])
    end
  end
  return #ids, #rows
end

local function fresh(q, n, entries)
  local read = redis.call('XREADGROUP', 'GROUP', G, me, 'COUNT', n, 'STREAMS', q.key, '>')
  if not read then return 0 end
  for _, entry in ipairs(read[1][2]) do
    entries[#entries + 1] = { q.rank, entry[1], 1, '', entry[2] }
    bytes = bytes - weight(entry[2])
  end
  return #read[1][2]
end

local tokens = redis.call('XRANGE', ready, ARGV[7], '+', 'COUNT', ARGV[6])
for _, token in ipairs(tokens) do
  if free < 1 or bytes < 1 then break end
  looked = looked + 1
  local s = token[2][1] == 's' and load(token[2][2])
  if not s or s.token ~= token[1] then
    redis.call('XDEL', ready, token[1])
  else
    local n, leave = 0, false
    if s.status == 'active' and s.hold <= now then
      weigh(s, me)
      n = math.min(s.limit - s.busy, s.fresh + s.again, most)
      if s.bytes > 0 and s.entries > 0 then
        n = math.min(n, math.max(1, math.floor(math.min(most_bytes, bytes) * s.entries / s.bytes)))
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
      local got = 0
      if n > 0 then
        local entries = {}
        local from, to, step = 1, #s.queues, 1
        -- Every eighth take starts at the bottom, so that a stream of urgent messages starves none.
        if #s.queues > 1 and redis.call('HINCRBY', s.key, 'turn', 1) % 8 == 0 then
          from, to, step = #s.queues, 1, -1
        end
        for i = from, to, step do
          local q = s.queues[i]
          if got < n and q.again > 0 then
            local count, gone = due_again(s, q, math.min(q.again, n - got), entries)
            got, s.again = got + count, s.again - gone
          end
          if got < n and q.fresh > 0 then
            local asked = math.min(q.fresh, n - got)
            local count = fresh(q, asked, entries)
            -- What is counted and not handed out belongs to nobody until a sweep finds it: no token for it.
            got, s.fresh = got + count, s.fresh - (count < asked and q.fresh or count)
          end
        end
        s.busy = s.busy + #entries
        free, spare = free - #entries, spare - #entries
        if #entries > 0 then taken[#taken + 1] = { s.id, s.change, entries } end
        got = #entries
      end
      if not arm(s, now) then redis.call('HDEL', s.key, 'token')
      elseif got > 0 then back = s.token
      else looked = -1000 end
    end
  end
end
-- Every token was looked at, and this worker may hold no more of those that it put back: it need not find
-- that out by another look.
if back ~= '' and spare < 1 and looked == #tokens and looked < tonumber(ARGV[6]) then passed = back end
return { taken, redis.call('XLEN', ready), passed, put_off }
