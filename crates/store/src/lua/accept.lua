#!lua
-- accept: a flight of messages into one partition of ingress.
--
-- KEYS[1]  the partition's prefix
-- ARGV[1]  milliseconds for which ids are remembered
-- then, per message, 8 values: slot of the id index, digest of the id, remember ('1': keep the id),
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

local age = math.floor(now / window)
local current, previous = P .. IDS .. age .. ':', P .. IDS .. (age - 1) .. ':'
local channels, reply = {}, {}

for at = 2, #ARGV, 8 do
  local slot, digest, remember, check = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local first = false
  if check == '1' then
    first = redis.call('HGET', current .. slot, digest) or redis.call('HGET', previous .. slot, digest)
    -- The window is fixed from first use: what is older is forgotten.
    if first and now - tonumber(string.match(first, ' (%d+)$')) >= window then first = false end
  end
  if first then
    local id, at_ms = string.match(first, '^(%S+) (%d+)$')
    local row = redis.call('XRANGE', ingress, id, id)[1]
    reply[#reply + 1] = { 0, id, tonumber(at_ms), row and row[2][4] or '' }
  else
    local id = redis.call('XADD', ingress, '*',
      'v', ARGV[at + 5], 'h', ARGV[at + 6], 'b', ARGV[at + 7], 't', now)
    if remember == '1' then
      local key = current .. slot
      if redis.call('HSET', key, digest, id .. ' ' .. now) == 1 and redis.call('HLEN', key) == 1 then
        redis.call('PEXPIRE', key, 2 * window)
      end
    end
    channels[ARGV[at + 4]] = true
    reply[#reply + 1] = { 1, id, now }
  end
end
for channel in pairs(channels) do redis.call('ZADD', P .. CHANNELS, now, channel) end
return reply
