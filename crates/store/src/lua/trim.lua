#!lua flags=allow-oom
-- trim: let go of ingress history.
--
-- KEYS[1]  the partition's prefix
-- ARGV     me, the epoch held, the id up to which every lane was compared and found current,
--          milliseconds of history to keep, the most entries to let go in one call
-- Replies  entries let go; -1 I am no longer the owner
--
-- Why one script: what is let go must be routed by what the partition itself says, at this moment.

local P, upto, keep, most = KEYS[1], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local owner = redis.call('HMGET', P .. OWNER, 'name', 'epoch')
if owner[1] ~= ARGV[1] or owner[2] ~= ARGV[2] then return -1 end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', P .. CHANNELS, '-inf', now - keep)
local ms = tonumber(string.match(upto, '^(%d+)'))
local bound = string.format('%.0f-0', math.min(ms, now - keep))
if now - keep >= ms then bound = upto end
return redis.call('XTRIM', P .. INGRESS, 'MINID', '~', bound, 'LIMIT', most)
