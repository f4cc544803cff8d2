#!lua
-- respond: the answer to a command. The first one counts.
--
-- KEYS[1]  the prefix of the command's partition
-- ARGV     tenant/command, the answer as JSON, by when it was due in ms ('' at any time), ms to keep it
-- Replies  { 1 | 0 (there was one before), the answer that counts, when it came, '1' if that was too late }
--
-- Whoever waits for it is told on the channel of the same name.
--
-- Why one script: of two answers at the same time one must win, and nobody may be told of the other.

local P, name, due = KEYS[1], ARGV[1], tonumber(ARGV[3])
local key = P .. RESPONSE .. name
local there = redis.call('HMGET', key, 'answer', 'at', 'late')
if there[1] then return { 0, there[1], there[2], there[3] } end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local at, late = string.format('%.0f', now), '0'
if due and now > due then late = '1' end
redis.call('HSET', key, 'answer', ARGV[2], 'at', at, 'late', late)
redis.call('PEXPIRE', key, ARGV[4])
redis.call('PUBLISH', key, at)
return { 1, ARGV[2], at, late }
