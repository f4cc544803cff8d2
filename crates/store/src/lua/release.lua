#!lua flags=allow-oom
-- release: give a partition up, so that another router has it at once.
--
-- KEYS[1]  the partition's prefix
-- ARGV     me, the epoch held
-- Replies  1 given up, 0 it was not mine any more
--
-- Why one script: only its owner may.

local owner = redis.call('HMGET', KEYS[1] .. OWNER, 'name', 'epoch')
if owner[1] ~= ARGV[1] or owner[2] ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1] .. OWNER, 'name', 'renewed')
return 1
