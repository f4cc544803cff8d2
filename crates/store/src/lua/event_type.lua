#!lua
-- event_type: the record of an event type, registered, changed or removed.
--
-- KEYS[1]  the control prefix
-- ARGV     tenant, type, record ('' removes it), the most types of a tenant, the most bytes of all its records
-- Replies  { 'OK', version, made at, changed at, 1 if it is new }, { 'NONE' } (nothing to remove),
--          { 'MANY', types } or { 'LARGE', bytes } (there would be; nothing is changed)
--
-- A record lies as `<version> <made at> <changed at> <record>`. Versions rise with each change of a tenant's types, so
-- that one number says whether anything has changed; by the clock, so that none comes again after changes were lost
-- with a server.
--
-- Why one script: a change whose version were not there yet would be missed by every instance that looks.

local P, tenant, type, record = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local key = P .. TYPES .. tenant
local there = redis.call('HGET', key, type)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local function next_version()
  local last = tonumber(redis.call('HGET', P .. TYPES_VERSION, tenant)) or 0
  local version = string.format('%.0f', math.max(now, last + 1))
  redis.call('HSET', P .. TYPES_VERSION, tenant, version)
  return version
end

if record == '' then
  if not there then return { 'NONE' } end
  redis.call('HDEL', key, type)
  next_version()
  return { 'OK', 0, 0, 0, 0 }
end
local names = redis.call('HKEYS', key)
local bytes = #record
for _, name in ipairs(names) do
  if name ~= type then bytes = bytes + redis.call('HSTRLEN', key, name) end
end
if bytes > tonumber(ARGV[5]) then return { 'LARGE', bytes } end
if not there and #names >= tonumber(ARGV[4]) then return { 'MANY', #names } end
local stamp = string.format('%.0f', now)
local made = there and string.match(there, '^%d+ (%d+) ') or stamp
local version = next_version()
redis.call('HSET', key, type, version .. ' ' .. made .. ' ' .. stamp .. ' ' .. record)
return { 'OK', version, made, stamp, there and 0 or 1 }
