#!lua
-- job: a replay job's record: made, taken by a reprocessor, brought forward, stopped.
--
-- KEYS[1]  the control prefix
-- ARGV     verb, job, then
--          'make':  tenant, specification as JSON, ms for which a finished job is remembered
--          'take':  me, lease in ms
--          'save':  me, state, cursor, note, ms to remember
--          'stop':  (nothing)
-- Replies  'make': 1 made, 0 there is one of that id; 'take': 1 mine, 0 somebody else's or finished;
--          'save': 1 saved, 0 not mine or stopped; 'stop': the state it had, or ''
--
-- Why one script: two reprocessors must not run one job, and a stop must not be overwritten by progress.

local P, verb, id = KEYS[1], ARGV[1], ARGV[2]
local key, list = P .. JOB .. id, P .. JOB_LIST
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

if verb == 'make' then
  if redis.call('EXISTS', key) == 1 then return 0 end
  redis.call('HSET', key, 'tenant', ARGV[3], 'spec', ARGV[4], 'state', 'waiting', 'cursor', '', 'note', '',
    'made', now, 'changed', now)
  redis.call('ZADD', list, now, id)
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', list, '-inf', now - tonumber(ARGV[5]), 'LIMIT', 0, 100)) do
    if redis.call('EXISTS', P .. JOB .. old) == 0 then redis.call('ZREM', list, old) end
  end
  return 1
end

local job = redis.call('HMGET', key, 'state', 'owner', 'renewed')
local state = job[1]
if not state then return verb == 'stop' and '' or 0 end
local open = state == 'waiting' or state == 'running'

if verb == 'take' then
  local age = now - (tonumber(job[3]) or 0)
  local free = not job[2] or job[2] == '' or job[2] == ARGV[3] or age > tonumber(ARGV[4]) or age < 0
  if not (open and free) then return 0 end
  redis.call('HSET', key, 'owner', ARGV[3], 'renewed', now, 'state', 'running')
  return 1
elseif verb == 'save' then
  if not open or job[2] ~= ARGV[3] then return 0 end
  redis.call('HSET', key, 'state', ARGV[4], 'cursor', ARGV[5], 'note', ARGV[6], 'renewed', now, 'changed', now)
  if ARGV[4] ~= 'running' then
    redis.call('HDEL', key, 'owner')
    if ARGV[4] ~= 'waiting' then redis.call('PEXPIRE', key, ARGV[7]) end
  end
  return 1
elseif verb == 'stop' then
  if open then redis.call('HSET', key, 'state', 'stopped', 'changed', now) end
  return state
end
