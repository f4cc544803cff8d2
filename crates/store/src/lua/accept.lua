#!lua
-- accept: a flight of messages into one partition of ingress.
--
-- KEYS[1]  the partition's prefix
-- ARGV[1]  milliseconds for which ids are remembered
-- then, per message, 8 values: a number from the id's digest, the digest, remember ('1': keep the id),
--          check ('1': the id may have been used before), tenant/channel, and the entry's v, h, b
-- Replies  per message { 1 | 0 (seen before), ingress id, accepted at [, first entry's h] }
--
-- Why one script: an id index without its entry would swallow the message for ever, an entry without its
-- id would be published twice. The server's run_id is compared with the gate: a promoted replica may lack
-- a tail, and must not hand out ids again that a lane has already counted.

local P = KEYS[1]
local ingress, gate = P .. INGRESS, P .. GATE
local window = tonumber(ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if redis.call('GET', gate) ~= run_id then
  local last = 0
  if redis.call('EXISTS', ingress) == 1 then
    local info = redis.call('XINFO', 'STREAM', ingress)
    for at = 1, #info, 2 do
      if info[at] == 'last-generated-id' then last = tonumber(string.match(info[at + 1], '^(%d+)')) end
    end
  else
    redis.call('XGROUP', 'CREATE', ingress, ROUTER, '0', 'MKSTREAM')
  end
  redis.call('XSETID', ingress, string.format('%.0f-0', math.max(last, now) + 60000))
  redis.call('SET', gate, run_id)
end

-- Ids lie in small hashes, which Redis keeps compactly up to 128 fields: 1,024 of them in a window, and
-- eight times as many each time one has grown full. The window is fixed from an id's first use.
local age = math.floor(now / window)
local windows = {}
for _, which in ipairs({ age, age - 1 }) do
  local prefix = P .. IDS .. string.format('%.0f', which) .. ':'
  windows[#windows + 1] = { prefix = prefix, depth = tonumber(redis.call('GET', prefix .. 'depth') or 0) }
end
local FULL = 120

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

local stamp = string.format('%.0f', now)
local channels, reply = {}, {}

for at = 2, #ARGV, 8 do
  local number, digest, remember, check = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local first = check == '1' and first_use(number, digest)
  if first then
    local id, at_ms = string.match(first, '^(%S+) (%d+)$')
    local row = redis.call('XRANGE', ingress, id, id)[1]
    reply[#reply + 1] = { 0, id, tonumber(at_ms), row and row[2][4] or '' }
  else
    local id = redis.call('XADD', ingress, '*',
      'v', ARGV[at + 5], 'h', ARGV[at + 6], 'b', ARGV[at + 7], 't', stamp)
    if remember == '1' then
      local w = windows[1]
      local key = w.prefix .. slot(w.depth, number)
      redis.call('HSET', key, digest, id .. ' ' .. stamp)
      local fields = redis.call('HLEN', key)
      if fields == 1 then
        redis.call('PEXPIRE', key, 2 * window)
      elseif fields >= FULL and w.depth < 4 then
        w.depth = w.depth + 1
        redis.call('SET', w.prefix .. 'depth', w.depth, 'PX', 2 * window)
      end
    end
    channels[ARGV[at + 4]] = true
    reply[#reply + 1] = { 1, id, now }
  end
end
for channel in pairs(channels) do redis.call('ZADD', P .. CHANNELS, stamp, channel) end
return reply
