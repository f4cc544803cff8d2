#!lua flags=allow-oom
-- claim: become a partition's owner, or renew being it.
--
-- KEYS[1]  the partition's prefix
-- ARGV     me, lease in ms, '1' to take it over if it is free (else only renew), the epoch held ('' none)
-- Replies  { 1, epoch } still mine
--          { 2, epoch, routed up to, { lane, id, … } } newly mine: go on behind `routed up to`
--          { 0, owner, ms since it renewed } somebody else's
--
-- Why one script: between looking and taking, another might take it.

local P, me, lease, take, epoch = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', ARGV[4]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local owner = redis.call('HMGET', P .. OWNER, 'name', 'epoch', 'renewed')
local age = now - (tonumber(owner[3]) or 0)

if owner[1] == me and owner[2] == epoch then
  redis.call('HSET', P .. OWNER, 'renewed', now)
  return { 1, tonumber(epoch) }
end
-- A clock that was set back makes the renewal lie ahead: nobody renews from the future.
local free = not owner[1] or owner[1] == me or age > lease or age < -lease
if not (take and free) then return { 0, owner[1] or '', age } end

-- Never an epoch that somebody may still hold, also where all of this was deleted in between.
local next_epoch = math.max((tonumber(owner[2]) or 0) + 1, now)
redis.call('HSET', P .. OWNER, 'name', me, 'epoch', string.format('%.0f', next_epoch), 'renewed', now)
local routed = false
local groups = redis.pcall('XINFO', 'GROUPS', P .. INGRESS)
if not groups.err then
  for _, group in ipairs(groups) do
    if group[2] == ROUTER then
      for at = 1, #group, 2 do
        if group[at] == 'last-delivered-id' then routed = group[at + 1] end
      end
    end
  end
end
if not routed then
  redis.call('XGROUP', 'CREATE', P .. INGRESS, ROUTER, '0', 'MKSTREAM')
  routed = '0-0'
end
return { 2, next_epoch, routed, redis.call('HGETALL', P .. SENT) }
