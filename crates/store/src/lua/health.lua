#!lua
-- health: the last health message of a service.
--
-- KEYS[1]  the prefix of the tenant's partition
-- ARGV     tenant, service, the message's record, when it was accepted in ms, the most services of a tenant
-- Replies  1 | 0 (a later one is there)
--
-- Beyond the most, the service that was heard the longest ago is forgotten.
--
-- Why one script: of two messages at the same time the later one must stay, and what is forgotten must go
-- from both places.

local P, tenant, service, at = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[4])
local services, heard = P .. SERVICES .. tenant, P .. HEARD .. tenant
local before = redis.call('ZSCORE', heard, service)
if before and tonumber(before) > at then return 0 end
redis.call('HSET', services, service, ARGV[3])
redis.call('ZADD', heard, ARGV[4], service)
local over = redis.call('ZCARD', heard) - tonumber(ARGV[5])
if over > 0 then
  for at, name in ipairs(redis.call('ZPOPMIN', heard, over)) do
    if at % 2 == 1 then redis.call('HDEL', services, name) end
  end
end
return 1
