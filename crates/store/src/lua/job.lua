#!lua flags=allow-oom
-- job: a replay job's record: made, taken by a reprocessor, brought forward, stopped, closed.
--
-- KEYS[1]  the control prefix; for 'open' and 'close' a lane's or a partition's
-- ARGV     verb, job, then
--          'make':  tenant, specification, plan, owner ('' nobody), the most open jobs of a tenant, the most
--                   records to keep
--          'take':  me, lease in ms
--          'save':  me, state, cursor, note
--          'stop':  (nothing)
--          'end':   what it moved in all, ms to remember it
--          'look':  (job is '') lease in ms, the most ids
--          'open':  (job is "<job>@<epoch>") (nothing)
--          'close': (nothing)
-- Replies  'make': 0 made, -1 there is one of that id, else the number of open jobs, which are too many;
--          'take': the epoch from which on it is mine, 0 if it is somebody else's or finished;
--          'save': 1 saved, 0 not mine or stopped; 'stop': the state it had, or '';
--          'end': 1 noted, 0 noted before or unknown, -1 it is open;
--          'look': { ids that nobody runs or that are finished and not ended, { state, count, ... } };
--          'open', 'close': what the job has moved in this lane or partition
--
-- Why one script: two reprocessors must not run one job, and a stop must not be overwritten by progress.
-- Each take has a higher epoch, and replay and again move only for the epoch that opened the place: whoever
-- opened all lanes and partitions, and then found that the job is still its own, is the only one who moves, and
-- knows the count.

local P, verb, id = KEYS[1], ARGV[1], ARGV[2]

if verb == 'open' then
  local job, epoch = string.match(id, '^([^@]*)@(%d+)$')
  if tonumber(redis.call('HGET', P .. JOBS, job .. ':epoch') or 0) < tonumber(epoch) then
    redis.call('HSET', P .. JOBS, job .. ':epoch', epoch)
  end
  return tonumber(redis.call('HGET', P .. JOBS, job) or 0)
elseif verb == 'close' then
  redis.call('HDEL', P .. JOBS, id .. ':epoch')
  return tonumber(redis.call('HGET', P .. JOBS, id) or 0)
end

local key, list = P .. JOB .. id, P .. JOB_LIST
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local function is_open(state)
  return state == 'waiting' or state == 'running'
end

local function is_free(owner, renewed, lease)
  local age = now - (tonumber(renewed) or 0)
  return not owner or owner == '' or age > tonumber(lease) or age < 0
end

if verb == 'make' then
  if redis.call('EXISTS', key) == 1 then return -1 end
  local open, excess = 0, redis.call('ZCARD', list) - tonumber(ARGV[8])
  for _, other in ipairs(redis.call('ZRANGE', list, 0, -1)) do
    local job = redis.call('HMGET', P .. JOB .. other, 'state', 'tenant', 'ended')
    if is_open(job[1]) then
      if job[2] == ARGV[3] then open = open + 1 end
    elseif not job[1] or (job[3] and excess > 0) then
      redis.call('UNLINK', P .. JOB .. other)
      redis.call('ZREM', list, other)
      excess = excess - 1
    end
  end
  if open >= tonumber(ARGV[7]) then return open end
  redis.call('HSET', key, 'tenant', ARGV[3], 'spec', ARGV[4], 'plan', ARGV[5], 'cursor', '', 'note', '',
    'state', ARGV[6] == '' and 'waiting' or 'running', 'owner', ARGV[6], 'renewed', now,
    'made', now, 'changed', now)
  redis.call('ZADD', list, now, id)
  return 0
elseif verb == 'look' then
  local ids, counts, found = {}, {}, {}
  for _, other in ipairs(redis.call('ZRANGE', list, 0, -1)) do
    local job = redis.call('HMGET', P .. JOB .. other, 'state', 'owner', 'renewed', 'ended')
    local state = job[1]
    if state then
      counts[state] = (counts[state] or 0) + 1
      local wants
      if is_open(state) then wants = is_free(job[2], job[3], ARGV[3]) else wants = not job[4] end
      if wants and #ids < tonumber(ARGV[4]) then ids[#ids + 1] = other end
    end
  end
  for state, count in pairs(counts) do
    found[#found + 1] = state
    found[#found + 1] = count
  end
  return { ids, found }
end

local job = redis.call('HMGET', key, 'state', 'owner', 'renewed', 'ended')
local state = job[1]
if not state then return verb == 'stop' and '' or 0 end

if verb == 'take' then
  if not is_open(state) then return 0 end
  if job[2] ~= ARGV[3] and not is_free(job[2], job[3], ARGV[4]) then return 0 end
  redis.call('HSET', key, 'owner', ARGV[3], 'renewed', now, 'state', 'running')
  return redis.call('HINCRBY', key, 'epoch', 1)
elseif verb == 'save' then
  if not is_open(state) or job[2] ~= ARGV[3] then return 0 end
  redis.call('HSET', key, 'state', ARGV[4], 'cursor', ARGV[5], 'note', ARGV[6], 'renewed', now, 'changed', now)
  if ARGV[4] ~= 'running' then redis.call('HDEL', key, 'owner') end
  return 1
elseif verb == 'stop' then
  if is_open(state) then
    redis.call('HSET', key, 'state', 'stopped', 'changed', now)
    redis.call('HDEL', key, 'owner')
  end
  return state
elseif verb == 'end' then
  if is_open(state) then return -1 end
  if job[4] then return 0 end
  redis.call('HSET', key, 'moved', ARGV[3], 'ended', now)
  redis.call('HDEL', key, 'plan')
  redis.call('PEXPIRE', key, ARGV[4])
  return 1
end
