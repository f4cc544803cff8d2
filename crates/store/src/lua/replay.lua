#!lua flags=allow-oom
-- replay: dead letters of one subscription back into its work queue.
--
-- KEYS[1]  the lane's prefix
-- ARGV     subscription, job, the most entries that its queue may then hold, trace time to live in ms,
--          then ids of dead letters
-- Replies  { moved, state }: how many were moved; 'OK', 'FULL' (the queue holds as much as it may) or
--          'GONE' (the subscription was cancelled)
--
-- Why one script: a dead letter leaves in the step in which it enters the queue. Ids that are no longer
-- there were moved before, so a job that was killed goes on where it was. The job's count for this lane is
-- raised in the same step, so that a limit holds through a crash.

local id, job, bound, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now = clock()
local s = load(id)
if not s.status or s.status == 'cancelled' then return { 0, 'GONE' } end
weigh(s)
local dead, moved, grown, state = P .. DEAD .. id, 0, 0, 'OK'
for at = 5, #ARGV do
  if s.entries + moved >= math.min(bound, s.max_entries) then state = 'FULL'; break end
  local row = redis.call('XRANGE', dead, ARGV[at], ARGV[at])[1]
  if row then
    local fields = row[2]
    local rank = field(fields, 'rank')
    if rank == '' then rank = '1' end
    local ref = field(fields, 'ref')
    open_rank(s, rank)
    local entry = redis.call('XADD', queue(id, rank), '*', 'v', field(fields, 'v'), 'h', field(fields, 'h'),
      'b', field(fields, 'b'), 't', field(fields, 't'), 'ref', ref)
    redis.call('XDEL', dead, ARGV[at])
    trace(ref, 'r ' .. id .. ' ' .. job .. ' ' .. now .. '\nq ' .. id .. ' ' .. rank .. ' ' .. entry .. ' ' .. now .. '\n', ttl)
    moved, grown = moved + 1, grown + size_of(fields)
  end
end
if redis.call('XLEN', dead) == 0 then
  redis.call('UNLINK', dead)
  redis.call('SREM', P .. DEADS, id)
end
if moved > 0 then
  redis.call('HINCRBY', P .. JOBS, job, moved)
  redis.call('HINCRBY', s.key, 'bytes', grown)
  redis.call('SADD', P .. LIVE, id)
  s.fresh = s.fresh + moved
  arm(s, now)
end
return { moved, state }
