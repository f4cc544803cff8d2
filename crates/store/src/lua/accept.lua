#!lua
-- accept: a flight of messages into one partition of ingress.
--
-- KEYS[1]  the partition's prefix
-- ARGV     milliseconds for which ids are remembered, the run_id of the server at the other end of the
--          connection that this call travels on; then, per message, 6 values: a number from the id's digest,
--          the digest, remember ('1': keep the id), check ('1': the id may have been used before),
--          tenant/channel, and the record
-- Replies  per message { 1, ingress id, accepted at }, or what partition.lua says of an id seen before
--
-- Why one script: an id index without its entry would swallow the message for ever, an entry without its
-- id would be published twice; and the gate must be passed in the step that hands out the ids.

pass_gate(ARGV[2])
local channels, reply = {}, {}
for at = 3, #ARGV, 6 do
  local number, digest = tonumber(ARGV[at]), ARGV[at + 1]
  local seen = ARGV[at + 3] == '1' and seen_before(number, digest)
  if seen then
    reply[#reply + 1] = seen
  else
    local id = redis.call('XADD', ingress, '*', 'm', ARGV[at + 5], 't', stamp)
    if ARGV[at + 2] == '1' then remember(number, digest, id) end
    channels[ARGV[at + 4]] = true
    reply[#reply + 1] = { 1, id, stamp }
  end
end
for channel in pairs(channels) do redis.call('ZADD', P .. CHANNELS, stamp, channel) end
return reply
