#!lua flags=allow-oom
-- replay: dead letters of one subscription back into its work queue.
--
-- KEYS[1]  the lane's prefix
-- ARGV     subscription, job (or "<job>@<epoch>", which counts only for the runner that opened this lane in
--          that epoch), the most entries that the queue may then hold, trace time to live in ms, then ids of
--          dead letters
-- Replies  { moved, state }: how many were moved; 'OK', 'FULL' (the queue holds as much as it may), 'GONE'
--          (the subscription was cancelled), 'UNKNOWN' (this lane lacks its settings) or 'LOST' (another
--          runner opened the lane, or the job was stopped)
--
-- Why one script: a dead letter leaves in the step in which it enters the queue. Ids that are no longer
-- there were moved before, so a job that was killed goes on where it was. The job's count for this lane is
-- raised in the same step, and only for the runner that opened the lane last, so that a limit holds through
-- a crash, a freeze and an answer that never came.

local id, bound, ttl = ARGV[1], tonumber(ARGV[3]), ARGV[4]
local job, epoch = string.match(ARGV[2], '^([^@]*)@?(%d*)$')
if epoch ~= '' and redis.call('HGET', P .. JOBS, job .. ':epoch') ~= epoch then return { 0, 'LOST' } end
local now = clock()
local s = load(id)
if s.status == 'cancelled' then return { 0, 'GONE' } end
if not s.status then return { 0, 'UNKNOWN' } end
weigh(s)
local most = math.min(bound, s.max_entries)
local dead, moved, grown, state = P .. DEAD .. id, 0, 0, 'OK'
for at = 5, #ARGV do
  if s.entries + moved >= most then state = 'FULL'; break end
  local row = redis.call('XRANGE', dead, ARGV[at], ARGV[at])[1]
  if row then
    local fields = row[2]
    local size = #field(fields, 'm')
    if s.entries + moved > 0 and s.bytes + grown + size > s.max_bytes then state = 'FULL'; break end
    -- A rank that is none would make a queue that nobody looks into.
    local rank = field(fields, 'rank')
    if not string.find(rank, '^[0-3]$') then rank = '1' end
    local ref = field(fields, 'ref')
    if s.ordered then rank = '1' end
    open_rank(s, rank)
    local entry_row = { 'XADD', queue(id, rank), '*', 'm', field(fields, 'm'), 't', field(fields, 't'), 'ref', ref }
    -- Its time to live was over or does not count any more; its order does.
    local k = field(fields, 'k')
    if s.ordered and k ~= '' then entry_row[#entry_row + 1] = 'k'; entry_row[#entry_row + 1] = k end
    local entry = redis.call(unpack(entry_row))
    redis.call('XDEL', dead, ARGV[at])
    trace(ref, 'r ' .. id .. ' ' .. job .. ' ' .. now .. '\nq ' .. id .. ' ' .. rank .. ' ' .. entry .. ' ' .. now .. '\n', ttl)
    moved, grown = moved + 1, grown + size
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
