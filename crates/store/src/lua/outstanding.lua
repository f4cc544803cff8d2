#!lua flags=allow-oom
-- outstanding: where deliveries of one subscription lie, as an acknowledgment needs to know.
--
-- KEYS[1]  the lane's prefix
-- ARGV     subscription, the most entries to look through for one that has no history, then per delivery: the
--          message's ref ('' none), its id
-- Replies  { status, change, rows }: the subscription's status here ('' unknown); per delivery { trace, place,
--          rank, id, lease number, tries, fields }, where place is a consumer's name, 'waiting', or 'gone'
--
-- Why one script: between two looks a delivery may move, and would be seen nowhere or twice.

local s = load(ARGV[1])
local most = tonumber(ARGV[2])

-- A message without a history is known only by what its entry says.
local function search(id)
  local member = '"id":"' .. id .. '"'
  local left = most
  for rank in string.gmatch(s.ranks, '%d') do
    local key = queue(s.id, rank)
    if redis.call('TYPE', key).ok == 'stream' then
      for _, row in ipairs(redis.call('XRANGE', key, '-', '+', 'COUNT', left)) do
        left = left - 1
        local fields = row[2]
        if field(fields, 'ref') == '' then
          local header = string.match(field(fields, 'm'), '^[^\n]*')
          if string.find(header, member, 1, true) then return rank, row[1] end
        end
      end
    end
    if left < 1 then return end
  end
end

-- The last time that a message was queued for this subscription.
local function queued(text)
  local rank, id
  for sub, r, entry in string.gmatch(text, '%f[^\n%z]q (%S+) (%d) (%d+%-%d+) %d+') do
    if sub == s.id then rank, id = r, entry end
  end
  return rank, id
end

local rows = {}
for at = 3, #ARGV, 2 do
  local ref = ARGV[at]
  local text, rank, id = '', nil, nil
  if ref ~= '' then
    text = redis.call('GET', P .. TRACE .. ref) or ''
    rank, id = queued(text)
  else
    rank, id = search(ARGV[at + 1])
  end
  local row = { text, 'gone', '1', '0-0', 0, '', {} }
  local entry = id and redis.pcall('XRANGE', queue(s.id, rank), id, id)
  if entry and not entry.err and entry[1] then
    local held = redis.pcall('XPENDING', queue(s.id, rank), G, id, id, 1)
    local is_held = not held.err and held[1]
    row = { text, is_held and held[1][2] or 'waiting', rank, id, is_held and held[1][4] or 0,
      redis.call('HGET', P .. TRIES .. s.id, rank .. ':' .. id) or '', entry[1][2] }
  elseif id then
    row[3], row[4] = rank, id
  end
  rows[#rows + 1] = row
end
return { s.status or '', s.change, rows }
