#!lua
-- due: messages whose time has come, from where they waited into ingress, in the order in which they became due.
--
-- KEYS[1]  the partition's prefix
-- ARGV     milliseconds for which ids are remembered, the run_id of the server at the other end of the
--          connection that this call travels on, the most messages to move, about the most bytes
-- Replies  { moved, still overdue }
--
-- Why one script: a message leaves where it waited in the step in which it enters ingress and its id the index.
-- So it does no harm if two routers move at once, or one twice. It adds to a stream, so a full Redis refuses it,
-- as it refuses accept: nothing could be delivered there of what is moved, and until then it can be cancelled.

local most, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local set, moved, freed, channels = P .. DELAYED, 0, 0, {}
for _, member in ipairs(redis.call('ZRANGE', set, '-inf', stamp, 'BYSCORE', 'LIMIT', 0, most)) do
  if freed >= most_bytes then break end
  local number, digest = string.match(member, '^(%d+):(.+)$')
  number = tonumber(number)
  local body = number and redis.call('HGET', P .. BODIES .. number % 1024, digest)
  -- A member without a body was put there by hand, or its body was taken away so.
  if body then
    local published, channel, record = open_body(body)
    if moved == 0 then pass_gate(ARGV[2]) end
    local id = redis.call('XADD', ingress, '*', 'm', record, 't', stamp, 'p', published)
    -- From here on nothing may fail before it has left: it would be moved again.
    redis.call('HDEL', P .. BODIES .. number % 1024, digest)
    redis.call('ZREM', set, member)
    remember(number, digest, id)
    if channel then channels[channel] = true end
    moved, freed = moved + 1, freed + #body
  else
    redis.call('ZREM', set, member)
  end
end
for channel in pairs(channels) do redis.call('ZADD', P .. CHANNELS, stamp, channel) end
if redis.call('EXISTS', set) == 0 then
  redis.call('HDEL', door, 'delayed')
elseif freed > 0 then
  redis.call('HINCRBY', door, 'delayed', -freed)
end
return { moved, redis.call('ZCOUNT', set, '-inf', stamp) }
