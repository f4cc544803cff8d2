#!lua flags=allow-oom
-- apply: a subscription's settings into its lane.
--
-- KEYS[1]  the lane's prefix
-- ARGV     subscription, change id, status ('active', 'pull', 'paused', 'disabled' or 'cancelled'),
--          prefetch count, the most entries, the most bytes, settings as JSON, ms for which a tombstone
--          is kept, '1' if ordered, deliveries a second ('' unlimited), channel for copies of dead letters
--          ('' none), '1' if deliveries are acknowledged by their subscriber
-- Replies  1 applied, 0 this or a newer change was here already
--
-- Why one script: an older change must never overwrite a newer one, and a queue must not be filled again
-- behind a cancellation.

local id, change, status = ARGV[1], ARGV[2], ARGV[3]
local now = clock()
local s = load(id)
if s.change ~= '0-0' and not after(change, s.change) then return 0 end

if status == 'cancelled' then
  for rank in string.gmatch(s.ranks, '%d') do redis.call('UNLINK', queue(id, rank)) end
  redis.call('UNLINK', P .. TRIES .. id, P .. DEAD .. id, P .. LOCKS .. id, P .. HELD .. id, P .. EXPIRY .. id, s.key)
  redis.call('SREM', P .. LIVE, id)
  redis.call('SREM', P .. DEADS, id)
  redis.call('ZREM', P .. TIMERS, 'hold:' .. id, 'probe:' .. id, 'rate:' .. id, 'expire:' .. id)
  redis.call('HSET', s.key, 'status', status, 'change', change)
  redis.call('PEXPIRE', s.key, ARGV[8])
  return 1
end

local ordered = ARGV[9]
-- Locks of before go on being passed on, until the last one is given up.
if ordered ~= '1' and s.locks and redis.call('EXISTS', P .. LOCKS .. id, P .. HELD .. id) > 0 then ordered = 'was' end
redis.call('HSET', s.key, 'change', change, 'status', status, 'cap', ARGV[4],
  'max_entries', ARGV[5], 'max_bytes', ARGV[6], 'settings', ARGV[7], 'ordered', ordered, 'rate', ARGV[10],
  'dlq', ARGV[11], 'acks', ARGV[12])
-- Whoever comes back from a pause is met with one delivery, then two, then four.
if (s.status == 'paused' or s.status == 'disabled') and status == 'active' then
  redis.call('HSET', s.key, 'limit', 1)
  redis.call('HDEL', s.key, 'gone', 'hold', 'streak', 'streak_from', 'opened', 'window', 'good', 'bad')
end
if status == 'pull' then redis.call('HDEL', s.key, 'limit', 'hold', 'window', 'good', 'bad', 'streak') end
redis.call('PERSIST', s.key)
s = load(id)
arm(s, now)
return 1
