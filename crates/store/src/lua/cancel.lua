#!lua flags=allow-oom
-- cancel: a message that waits to become due is let go.
--
-- KEYS[1]  the partition's prefix
-- ARGV     milliseconds for which ids are remembered, a number from the id's digest, the digest
-- Replies  { 1, now, due } cancelled now; { 2, when } cancelled before; { 3, ingress id } it was published;
--          { 0 } nobody knows it
--
-- Why one script: either it is moved into ingress or it is cancelled. What stays is its id in the index, so that
-- whoever repeats the cancel hears the same, and a publish that is repeated late brings nothing back.

local number, digest = tonumber(ARGV[2]), ARGV[3]
local body = delayed_body(number, digest)
if body then
  local member = number .. ':' .. digest
  local due = redis.call('ZSCORE', P .. DELAYED, member)
  redis.call('HDEL', P .. BODIES .. number % 1024, digest)
  redis.call('ZREM', P .. DELAYED, member)
  if redis.call('EXISTS', P .. DELAYED) == 1 then
    redis.call('HINCRBY', door, 'delayed', -#body)
  else
    redis.call('HDEL', door, 'delayed')
  end
  remember(number, digest, CANCELLED)
  return { 1, stamp, due or '' }
end
local first = first_use(number, digest)
if not first then return { 0 } end
local id, at_ms = string.match(first, '^(%S+) (%d+)$')
if id == CANCELLED then return { 2, at_ms } end
return { 3, id }
