#!lua
-- notify: a notification into the tail of those it is for, and a signal to who listens now.
--
-- KEYS[1]  the prefix of the tenant's partition
-- ARGV     tenant, tail, notification, its content, the most entries of a tail, ms for which it is kept, ms
--          for which its id is remembered
-- Replies  { 1 | 0 (it was there before), its id in the tail }
--
-- All tails of a tenant share one line of ids, so that one position says how far a reader of several is.
-- A tail is bounded by its entries and their age; it goes when nothing has come for as long as they are kept.
--
-- Why one script: an id that is higher than another's must not become visible before it, or a reader that has
-- seen the higher one would pass over the lower. A signal before its entry would be looked after in vain.

local P, tenant, keep = KEYS[1], ARGV[1], tonumber(ARGV[6])
local tail = P .. TAIL .. tenant .. '/' .. ARGV[2]
local notified = P .. NOTIFIED .. tenant .. '/' .. ARGV[3]
local first = redis.call('GET', notified)
if first then return { 0, first } end

local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local last = redis.call('HGET', P .. TAILS, tenant) or '0-0'
local ms, seq = string.match(last, '^(%d+)-(%d+)$')
local id
if now > tonumber(ms) then
  id = string.format('%.0f-0', now)
else
  id = ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
end
redis.call('XADD', tail, 'MAXLEN', ARGV[5], id, 'n', ARGV[4])
redis.call('XTRIM', tail, 'MINID', string.format('%.0f-0', math.max(now - keep, 0)))
redis.call('PEXPIRE', tail, ARGV[6])
redis.call('HSET', P .. TAILS, tenant, id)
redis.call('SET', notified, id, 'PX', ARGV[7])
redis.call('PUBLISH', tail, id)
return { 1, id }
