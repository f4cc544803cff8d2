#!lua flags=allow-oom
-- heartbeat: say that an instance lives, and hear who else does.
--
-- KEYS[1]  the control prefix
-- ARGV     instance ('' only looks), its description as JSON, ms after which a silent one counts as gone,
--          '1' to leave, how many partitions and lanes there are
-- Replies  { now, { instance, description, ms since it was heard, … } }
--
-- Why one script: list and descriptions must agree, by one clock.

local P, me, gone = KEYS[1], ARGV[1], tonumber(ARGV[3])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local members, about = P .. MEMBERS, P .. ABOUT
if ARGV[4] == '1' then
  redis.call('ZREM', members, me)
  redis.call('HDEL', about, me)
elseif me ~= '' then
  redis.call('ZADD', members, now, me)
  redis.call('HSET', about, me, ARGV[2])
  -- Nobody with another layout may join, also where it was deleted.
  redis.call('HSETNX', P .. LAYOUT, 'partitions', ARGV[5])
  redis.call('HSETNX', P .. LAYOUT, 'lanes', ARGV[6])
end
-- A clock that was set back leaves renewals from the future, which would never age.
local silent = redis.call('ZRANGEBYSCORE', members, '-inf', now - gone)
for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', members, now + gone, '+inf')) do silent[#silent + 1] = ahead end
for _, name in ipairs(silent) do
  redis.call('ZREM', members, name)
  redis.call('HDEL', about, name)
end
local reply = {}
local rows = redis.call('ZRANGE', members, 0, -1, 'WITHSCORES')
for at = 1, #rows, 2 do
  reply[#reply + 1] = rows[at]
  reply[#reply + 1] = redis.call('HGET', about, rows[at]) or '{}'
  reply[#reply + 1] = now - tonumber(rows[at + 1])
end
return { now, reply }
