#!lua
-- again: messages of history into their partition's ingress once more, each for named subscriptions.
--
-- KEYS[1]  the partition's prefix
-- ARGV     milliseconds for which ids are remembered, the run_id of the server at the other end of the connection
--          that this call travels on, "<job>@<epoch>" (which counts only for the runner that opened this partition
--          in that epoch); then, per message, 6 values: a number from the digest of the job and the message, the
--          digest, the id that it first had in ingress, for how many subscriptions it is, and its record up to the
--          number of its generation and behind that
-- Replies  { 'OK', per message { generation, ingress id } } with generation 0 where this job has added it before;
--          { 'LOST' } another runner opened the partition, or the job was stopped
--
-- Why one script: the entry, the note that the job has added it, the job's count and the message's generation must
-- not part, or a runner that is killed would add twice, pass over, or give two replays one number.

local job, epoch = string.match(ARGV[3], '^([^@]*)@?(%d*)$')
if epoch ~= '' and redis.call('HGET', P .. JOBS, job .. ':epoch') ~= epoch then return { 'LOST' } end
pass_gate(ARGV[2])

-- Generations lie by when the first one came, and go when no first one of that time can be in history any more.
-- All that one job adds of a message is of one generation.
local function next_generation(first)
  local key = P .. GENERATIONS .. string.format('%.0f', math.floor(tonumber(string.match(first, '^(%d+)')) / window))
  local last, by = string.match(redis.call('HGET', key, first) or '', '^(%d+) (.*)$')
  if by == job then return last end
  local generation = string.format('%.0f', (tonumber(last) or 0) + 1)
  redis.call('HSET', key, first, generation .. ' ' .. job)
  redis.call('PEXPIRE', key, string.format('%.0f', 2 * window))
  return generation
end

local reply, moved = {}, 0
for at = 4, #ARGV, 6 do
  local number, digest, first = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2]
  local seen = first_use(number, digest)
  if seen then
    reply[#reply + 1] = { 0, string.match(seen, '^(%S+)') }
  else
    local generation = next_generation(first)
    local record = ARGV[at + 4] .. generation .. ARGV[at + 5]
    local id = redis.call('XADD', ingress, '*', 'm', record, 't', stamp, 'o', first)
    remember(number, digest, id)
    moved = moved + tonumber(ARGV[at + 3])
    reply[#reply + 1] = { tonumber(generation), id }
  end
end
if moved > 0 then redis.call('HINCRBY', P .. JOBS, job, moved) end
return { 'OK', reply }
