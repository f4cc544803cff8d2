#!lua
-- enqueue: entries into the work queues of one lane, as the next links of their partitions' chains.
--
-- KEYS[1]  the lane's prefix
-- ARGV[1]  milliseconds for which traces are kept
-- then, per partition: partition, prev, last, number of entries, and per entry: ingress id, m, t,
--          keep ('1': has a history; an ingress id: a replay of that one, whose history it goes on with;
--          '0': none), number of subscriptions, and per subscription: id, rank
-- Replies  { results, unknown, broken }: per partition 'OK', 'DUP' or the mark, where the mark lies below
--          prev (a gap: send everything behind the mark again); subscriptions whose settings this lane
--          lacks; queues that Redis refused
--
-- Why one script: the mark and the entries that it stands for must not part. It is written last, so an
-- error on the way leaves a batch that is sent again, never one that is taken for sent.

local now = clock()
local stamp = string.format('%.0f', now)
local ttl, at = ARGV[1], 2
local subs, results, unknown, broken, marks, moved = {}, {}, {}, {}, {}, {}

local function known(id)
  local s = subs[id]
  if not s then
    s = load(id)
    s.added, s.grown = 0, 0
    if s.status ~= 'cancelled' then
      weigh(s)
      -- Before anything is added: what is refused behind the adding would be added again.
      redis.call('SADD', P .. LIVE, id)
    end
    if not s.status then unknown[#unknown + 1] = id end
    subs[id] = s
  end
  return s
end

local function add(s, rank, ref, m, t)
  local size = #m
  if s.entries + s.added >= s.max_entries or s.bytes + s.grown + size > s.max_bytes then
    if not pcall(bury, s, rank, { 'm', m, 't', t, 'ref', ref }, 'queue_full', '', now) then
      broken[#broken + 1] = P .. DEAD .. s.id
      return ''
    end
    return 'd ' .. s.id .. ' queue_full ' .. stamp .. '\n'
  end
  open_rank(s, rank)
  local id = redis.pcall('XADD', queue(s.id, rank), '*', 'm', m, 't', t, 'ref', ref)
  if type(id) == 'table' then
    broken[#broken + 1] = queue(s.id, rank)
    return ''
  end
  s.added, s.grown = s.added + 1, s.grown + size
  return 'q ' .. s.id .. ' ' .. rank .. ' ' .. id .. ' ' .. stamp .. '\n'
end

while at <= #ARGV do
  local partition, prev, last, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  at = at + 4
  local mark = moved[partition] or redis.call('HGET', P .. MARKS, partition) or '0-0'
  local verdict = 'OK'
  if after(prev, mark) then verdict = mark elseif not after(last, mark) then verdict = 'DUP' end
  for _ = 1, count do
    local id, m, t, keep, n = unpack(ARGV, at, at + 4)
    at = at + 5
    if verdict == 'OK' and after(id, mark) then
      local ref, lines = keep ~= '0' and partition .. ':' .. (keep == '1' and id or keep) or '', ''
      for pair = at, at + 2 * n - 1, 2 do
        local s = known(ARGV[pair])
        if s.status ~= 'cancelled' then
          lines = lines .. add(s, ARGV[pair + 1], ref, m, t)
        end
      end
      mark = id
      if keep ~= '1' then trace(ref, lines, ttl)
      elseif lines ~= '' then redis.call('SET', P .. TRACE .. ref, lines, 'PX', ttl) end
    end
    at = at + 2 * n
  end
  if verdict == 'OK' then marks[#marks + 1] = partition; marks[#marks + 1] = last; moved[partition] = last end
  results[#results + 1] = verdict
end

for _, s in pairs(subs) do
  if s.added > 0 then
    redis.call('HINCRBY', s.key, 'bytes', s.grown)
    s.fresh = s.fresh + s.added
    arm(s, now)
  end
end
if #marks > 0 then redis.call('HSET', P .. MARKS, unpack(marks)) end
return { results, unknown, broken }
