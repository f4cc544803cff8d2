#!lua flags=allow-oom
-- channel: a channel's settings, written or forgotten, with the change that tells of it.
--
-- KEYS[1]  the control prefix
-- ARGV     tenant, <tenant>/<name>, the settings as JSON ('' forgets them), the most channels that a tenant may
--          configure
-- Replies  { 'OK', change id, 1 if there were settings before, else 0 }, { 'NONE' } there is nothing to forget,
--          { 'FULL', count }, or { 'SHARED', services } it cannot be exclusive: so many subscribe to it by name
--
-- Why one script: settings without their change would be missed by everyone who is awake, a change without
-- its settings by everyone who wakes; and who subscribes may not change between the look and the exclusion.
--
-- It runs on a full Redis: settings are bounded by count and size, and may be what makes room again.

local tenant, channel, record = ARGV[1], ARGV[2], ARGV[3]
local there = redis.call('HEXISTS', P .. SETTINGS, channel)
if record == '' then
  if there == 0 then return { 'NONE' } end
  return { 'OK', forget(tenant, channel), 1 }
end
if there == 0 then
  local count = tonumber(redis.call('HGET', P .. CONFIGURED, tenant) or 0)
  if count >= tonumber(ARGV[4]) then return { 'FULL', count } end
end
if decoded(record).exclusive == true then
  local services, seen = 0, {}
  for _, service in ipairs(redis.call('HVALS', P .. NAMED .. channel)) do
    if not seen[service] then services, seen[service] = services + 1, true end
  end
  if services > 1 then return { 'SHARED', services } end
end
redis.call('HSET', P .. SETTINGS, channel, record)
if there == 0 then redis.call('HINCRBY', P .. CONFIGURED, tenant, 1) end
return { 'OK', tell('channel', channel, record), there }
