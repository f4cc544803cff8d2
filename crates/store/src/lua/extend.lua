#!lua flags=allow-oom
-- extend: give whoever holds deliveries more time to acknowledge them.
--
-- KEYS[1]  the lane's prefix
-- ARGV     subscription, ms from now, then per delivery: rank, id
-- Replies  per delivery 1, or 0 where it does not await its acknowledgment
--
-- Why one script: a timer must not be set for a delivery that was settled in between.

local id, ms = ARGV[1], tonumber(ARGV[2])
local now = clock()
local replies = {}
for at = 3, #ARGV, 2 do
  local rank, entry = ARGV[at], ARGV[at + 1]
  local row = redis.pcall('XPENDING', queue(id, rank), G, entry, entry, 1)
  local awaits = not row.err and row[1] and row[1][2] == 'ack'
  if awaits then redis.call('ZADD', P .. TIMERS, now + ms, 'ack:' .. id .. ':' .. rank .. ':' .. entry) end
  replies[#replies + 1] = awaits and 1 or 0
end
return replies
