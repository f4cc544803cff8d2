#!lua
-- delay: a flight of messages into one partition, to wait there until they are due.
--
-- KEYS[1]  the partition's prefix
-- ARGV     milliseconds for which ids are remembered, the most messages that may wait here, the most bytes of
--          them; then, per message, 6 values: a number from the id's digest, the digest, check ('1': the id may
--          have been used before), tenant/channel, when it is due ('+<ms>' from now, or a time in ms), and the
--          record
-- Replies  per message { 1, due, published at }; { 2 } as many wait here as may; or what partition.lua says of an
--          id seen before
--
-- Why one script: a due time without its body would be nothing to move, a body without its due time would never
-- move; and no other call may use the id in between. The clock is this server's.

local most, most_bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
local count, bytes = redis.call('ZCARD', P .. DELAYED), tonumber(state[5]) or 0
local channels, reply, grown = {}, {}, 0
for at = 4, #ARGV, 6 do
  local number, digest, channel, due = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 3], ARGV[at + 4]
  local body = stamp .. ' ' .. channel .. '\n' .. ARGV[at + 5]
  local seen = ARGV[at + 2] == '1' and seen_before(number, digest)
  if seen then
    reply[#reply + 1] = seen
  elseif count >= most or bytes + grown + #body > most_bytes then
    reply[#reply + 1] = { 2 }
  else
    due = string.format('%.0f', string.sub(due, 1, 1) == '+' and now + tonumber(due) or tonumber(due))
    -- The body first: should the other be refused, nothing moves that is not there.
    redis.call('HSET', P .. BODIES .. number % 1024, digest, body)
    redis.call('ZADD', P .. DELAYED, due, number .. ':' .. digest)
    count, grown, any_delayed = count + 1, grown + #body, true
    channels[channel] = true
    reply[#reply + 1] = { 1, due, stamp }
  end
end
if grown > 0 then redis.call('HINCRBY', door, 'delayed', grown) end
for channel in pairs(channels) do redis.call('ZADD', P .. CHANNELS, stamp, channel) end
return reply
