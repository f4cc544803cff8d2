#!lua flags=allow-oom
-- purge: let dead letters of one subscription go.
--
-- KEYS[1]  the lane's prefix
-- ARGV     subscription, then ids of dead letters
-- Replies  how many were let go
--
-- Why one script: the list of subscriptions with dead letters must not name an empty one for long.

local dead, gone = P .. DEAD .. ARGV[1], 0
for from = 2, #ARGV, 1000 do
  gone = gone + redis.call('XDEL', dead, unpack(ARGV, from, math.min(from + 999, #ARGV)))
end
if redis.call('XLEN', dead) == 0 then
  redis.call('UNLINK', dead)
  redis.call('SREM', P .. DEADS, ARGV[1])
end
return gone
