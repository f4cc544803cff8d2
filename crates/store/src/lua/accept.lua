#!lua
-- accept: a flight of messages into one partition of ingress.
--
-- KEYS[1]  the partition's prefix
-- ARGV     milliseconds for which ids are remembered, the run_id of the server at the other end of the
--          connection that this call travels on; then, per message, 6 values: a number from the id's digest,
--          the digest, remember ('1': keep the id), check ('1': the id may have been used before),
--          tenant/channel, and the record
-- Replies  per message { 1 | 0 (seen before), ingress id, accepted at [, the first one's record] }
--
-- Why one script: an id index without its entry would swallow the message for ever, an entry without its
-- id would be published twice. The server's run_id is compared with the gate: a promoted replica may lack
-- a tail, and must not hand out ids again that a lane has already counted; nor must a stream that was deleted.

local P = KEYS[1]
local ingress, door = P .. INGRESS, P .. DOOR
local window, run_id = tonumber(ARGV[1]), ARGV[2]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local stamp = string.format('%.0f', now)
local age = math.floor(now / window)
local ages = { string.format('%.0f', age), string.format('%.0f', age - 1) }
local state = redis.call('HMGET', door, 'gate', 'depth:' .. ages[1], 'depth:' .. ages[2], 'ahead')

local exists = redis.call('EXISTS', ingress) == 1
if state[1] ~= run_id or not exists then
  local last = tonumber(state[4]) or 0
  for _, id in ipairs(redis.call('HVALS', P .. SENT)) do
    last = math.max(last, tonumber(string.match(id, '^(%d+)')) or 0)
  end
  if exists then
    local info = redis.call('XINFO', 'STREAM', ingress)
    for at = 1, #info, 2 do
      if info[at] == 'last-generated-id' then
        last = math.max(last, tonumber(string.match(info[at + 1], '^(%d+)')))
      end
    end
  else
    redis.call('XGROUP', 'CREATE', ingress, ROUTER, '0', 'MKSTREAM')
  end
  local ahead = string.format('%.0f', math.max(last, now) + 60000)
  redis.call('XSETID', ingress, ahead .. '-0')
  redis.call('HSET', door, 'gate', run_id, 'ahead', ahead)
end

-- Ids lie in small hashes, which Redis keeps compactly up to 128 fields: 1,024 of them in a window, and
-- eight times as many each time one has grown full. The window is fixed from an id's first use.
local FULL, DEEPEST = 120, 4
local windows = {}
for at, name in ipairs(ages) do
  windows[at] = { prefix = P .. IDS .. name .. ':', depth = tonumber(state[at + 1] or 0) }
end

local function slot(depth, number)
  return depth .. ':' .. number % (1024 * 8 ^ depth)
end

local function first_use(number, digest)
  for _, w in ipairs(windows) do
    for depth = w.depth, 0, -1 do
      local first = redis.call('HGET', w.prefix .. slot(depth, number), digest)
      if first and now - tonumber(string.match(first, ' (%d+)$')) < window then return first end
    end
  end
end

local function remember(number, digest, id)
  local w = windows[1]
  local key = w.prefix .. slot(w.depth, number)
  redis.call('HSET', key, digest, id .. ' ' .. stamp)
  local fields = redis.call('HLEN', key)
  if fields == 1 then
    redis.call('PEXPIRE', key, string.format('%.0f', 2 * window))
  elseif fields >= FULL and w.depth < DEEPEST then
    w.depth = w.depth + 1
    redis.call('HSET', door, 'depth:' .. ages[1], w.depth)
    redis.call('HDEL', door, 'depth:' .. string.format('%.0f', age - 2))
  end
end

local channels, reply = {}, {}
for at = 3, #ARGV, 6 do
  local number, digest = tonumber(ARGV[at]), ARGV[at + 1]
  local first = ARGV[at + 3] == '1' and first_use(number, digest)
  if first then
    local id, at_ms = string.match(first, '^(%S+) (%d+)$')
    local row = redis.call('XRANGE', ingress, id, id)[1]
    reply[#reply + 1] = { 0, id, at_ms, row and row[2][2] or '' }
  else
    local id = redis.call('XADD', ingress, '*', 'm', ARGV[at + 5], 't', stamp)
    if ARGV[at + 2] == '1' then remember(number, digest, id) end
    channels[ARGV[at + 4]] = true
    reply[#reply + 1] = { 1, id, stamp }
  end
end
for channel in pairs(channels) do redis.call('ZADD', P .. CHANNELS, stamp, channel) end
return reply
