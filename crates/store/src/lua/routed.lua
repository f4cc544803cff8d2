#!lua flags=allow-oom
-- routed: everything up to an id is in its queues; remember that, and how far each lane got.
--
-- KEYS[1]  the partition's prefix
-- ARGV     me, the epoch held, the id, then lane and id, lane and id, …
-- Replies  1 remembered, 0 I am no longer the owner
--
-- Why one script: an old owner must not move the position, and the lanes' ids belong to that position.

local P = KEYS[1]
local owner = redis.call('HMGET', P .. OWNER, 'name', 'epoch')
if owner[1] ~= ARGV[1] or owner[2] ~= ARGV[2] then return 0 end
local moved = redis.pcall('XGROUP', 'SETID', P .. INGRESS, ROUTER, ARGV[3])
if moved.err then
  redis.call('XGROUP', 'CREATE', P .. INGRESS, ROUTER, ARGV[3], 'MKSTREAM')
end
for from = 4, #ARGV, 1000 do
  redis.call('HSET', P .. SENT, unpack(ARGV, from, math.min(from + 999, #ARGV)))
end
return 1
