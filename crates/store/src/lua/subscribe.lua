#!lua flags=allow-oom
-- subscribe: a subscription's record, created, changed or removed, with the change that tells of it.
--
-- KEYS[1]  the control prefix
-- ARGV     subscription, tenant, record as JSON ('' removes it), the change id that is expected to be
--          there ('' none: it must not exist), the most subscriptions that a tenant may have
-- Replies  { 'OK', change id }, { 'CONFLICT', change id that is there or '' } or { 'FULL', count }
--
-- A change names the one before it, so that whoever follows sees where changes are missing: let go after an
-- hour, or lost with a server.
--
-- A change is `unapplied` until its lane has it: whoever makes it may be killed in between.
--
-- Why one script: a record without its change would be missed by every router that is awake, a change
-- without its record by every one that wakes.

local P, id, tenant, record, expected = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local there = redis.call('HGET', P .. CHANGED, id) or ''
if there ~= expected then return { 'CONFLICT', there } end
local index = P .. TENANT .. tenant
if expected == '' then
  local count = redis.call('ZCARD', index)
  if count >= tonumber(ARGV[5]) then return { 'FULL', count } end
end
local prev, info = '0-0', redis.pcall('XINFO', 'STREAM', P .. CHANGES)
for at = 1, #info, 2 do
  if info[at] == 'last-generated-id' then prev = info[at + 1] end
end
local old = string.format('%.0f-0', redis.call('TIME')[1] * 1000 - 3600000)
local change = redis.call('XADD', P .. CHANGES, 'MINID', '~', old, '*',
  'kind', 'subscription', 'id', id, 'prev', prev, 'record', record)
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
return { 'OK', change }
