#!lua flags=allow-oom
-- outstanding: where deliveries of one subscription lie, as an acknowledgment needs to know.
--
-- KEYS[1]  the lane's prefix
-- ARGV     subscription, the most entries and the most bytes to look through for those that have no trace, then per
--          delivery: the message's ref ('' none), its id
-- Replies  { status, change, rows }: the subscription's status here ('' unknown); per delivery { trace, place,
--          rank, id, lease number, tries, fields }, where place is a consumer's name, 'waiting', or 'gone'
--
-- A message may lie here more than once: replayed from history while its first delivery is still out. Whoever
-- acknowledges means the one that was handed out.
--
-- Why one script: between two looks a delivery may move, and would be seen nowhere or twice.

local s = load(ARGV[1])
local most, most_bytes = tonumber(ARGV[2]), tonumber(ARGV[3])

local function nearness(place)
  if place == 'ack' then return 4 end
  if string.sub(place, 1, 2) == 'w-' then return 3 end
  if place == 'waiting' then return 1 end
  return 2
end

-- One entry of a queue: where it lies, and all of it; nil where it does not.
local function look(rank, id)
  local key = queue(s.id, rank)
  local rows = redis.pcall('XRANGE', key, id, id)
  if rows.err or not rows[1] then return end
  local held = redis.pcall('XPENDING', key, G, id, id, 1)
  local is_held = not held.err and held[1]
  local tries = redis.pcall('HGET', P .. TRIES .. s.id, rank .. ':' .. id)
  return { is_held and held[1][2] or 'waiting', rank, id, is_held and held[1][4] or 0,
    type(tries) == 'string' and tries or '', rows[1][2] }
end

-- What has no history, or has outlived it, is known only by what its entry says. Whatever is with somebody is looked
-- through once, those first that await their acknowledgment.
local found
local function by_id(id)
  if found then return found[id] end
  found = {}
  for _, wanted in ipairs({ 4, 3, 2 }) do
    for rank in string.gmatch(s.ranks, '%d') do
      local key = queue(s.id, rank)
      local p = redis.pcall('XPENDING', key, G)
      for _, consumer in ipairs(not p.err and p[4] or {}) do
        if nearness(consumer[1]) == wanted and most > 0 and most_bytes > 0 then
          for _, row in ipairs(redis.call('XPENDING', key, G, '-', '+', most, consumer[1])) do
            if most < 1 or most_bytes < 1 then break end
            local entry = redis.call('XRANGE', key, row[1], row[1])[1]
            local m = entry and field(entry[2], 'm') or ''
            most, most_bytes = most - 1, most_bytes - #m
            local name = string.match(m, '^[^\n]-"id":"([%w_-]+)"')
            if name and not found[name] then found[name] = { rank, row[1] } end
          end
        end
      end
    end
  end
  return found[id]
end

local rows = {}
for at = 4, #ARGV, 2 do
  local ref, best, last = ARGV[at], nil, nil
  local text = ref ~= '' and redis.pcall('GET', P .. TRACE .. ref) or ''
  if type(text) ~= 'string' then text = '' end
  for sub, rank, id in string.gmatch(text, '%f[^\n%z]q (%S+) (%d) (%d+%-%d+) %d+') do
    if sub == s.id then
      last = { rank, id }
      local lying = look(rank, id)
      if lying and (not best or nearness(lying[1]) >= nearness(best[1])) then best = lying end
    end
  end
  if not last then
    local place = by_id(ARGV[at + 1])
    best = place and look(place[1], place[2])
  end
  if best then rows[#rows + 1] = { text, unpack(best) }
  else rows[#rows + 1] = { text, 'gone', last and last[1] or '1', last and last[2] or '0-0', 0, '', {} } end
end
return { s.status or '', s.change, rows }
