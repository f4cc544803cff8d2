#!lua flags=allow-oom
-- subscribe: a subscription's record, created, changed or removed, with the change that tells of it.
--
-- KEYS[1]  the control prefix
-- ARGV     subscription, tenant, record as JSON ('' removes it), the change id that is expected to be
--          there ('' none: it must not exist), the most subscriptions that a tenant may have, the channel that
--          it names ('' for a pattern), its service
-- Replies  { 'OK', change id }, { 'CONFLICT', change id that is there or '' }, { 'FULL', count } or
--          { 'EXCLUSIVE', service } the channel is exclusive, and that service subscribes to it
--
-- A change is `unapplied` until its lane has it: whoever makes it may be killed in between.
--
-- Why one script: a record without its change would be missed by every router that is awake, a change
-- without its record by every one that wakes. Who subscribes to a channel by name is noted with it: else two
-- services could come to an exclusive one at the same time, and a kill could keep the settings that were to
-- go with the last subscription.

local id, tenant, record, expected, channel, service = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6], ARGV[7]
local there = redis.call('HGET', P .. CHANGED, id) or ''
if there ~= expected then return { 'CONFLICT', there } end
local index = P .. TENANT .. tenant
if expected == '' then
  local count = redis.call('ZCARD', index)
  if count >= tonumber(ARGV[5]) then return { 'FULL', count } end
end
local old = decoded(redis.call('HGET', P .. SUBS, id))
local left = type(old.channel) == 'string' and tenant .. '/' .. old.channel
local named = record ~= '' and channel ~= '' and tenant .. '/' .. channel
if named and (named ~= left or old.service_name ~= service) and settings_of(named).exclusive == true then
  local others = redis.call('HGETALL', P .. NAMED .. named)
  for at = 1, #others, 2 do
    if others[at] ~= id and others[at + 1] ~= service then return { 'EXCLUSIVE', others[at + 1] } end
  end
end
local change = tell('subscription', id, record)
redis.call('ZADD', P .. UNAPPLIED, redis.call('TIME')[1] * 1000, id .. ' ' .. change)
if record == '' then
  redis.call('HDEL', P .. SUBS, id)
  redis.call('HDEL', P .. CHANGED, id)
  redis.call('ZREM', index, id)
else
  redis.call('HSET', P .. SUBS, id, record)
  redis.call('HSET', P .. CHANGED, id, change)
  redis.call('ZADD', index, 0, id)
end
if named then redis.call('HSET', P .. NAMED .. named, id, service) end
if left and left ~= named then
  local was_named = redis.call('HDEL', P .. NAMED .. left, id) == 1
  if was_named and redis.call('EXISTS', P .. NAMED .. left) == 0 and settings_of(left).auto_delete == true then
    forget(tenant, left)
  end
end
return { 'OK', change }
