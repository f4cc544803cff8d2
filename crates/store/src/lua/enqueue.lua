#!lua
-- enqueue: entries into the work queues of one lane, as the next links of their partitions' chains.
--
-- KEYS[1]  the lane's prefix
-- ARGV[1]  milliseconds for which traces are kept
-- then, per partition: partition, prev, last, number of entries, and per entry: ingress id, m, t,
--          terms, number of subscriptions, and per subscription: id, rank.
--          Terms begin with '1' (has a history) or '0', then where there are any: ' h=' and the ingress id whose
--          history it goes on with (a replay), ' x=' and when it expires, ' k=' and its ordering key's digest, ' n='
--          and the most that may wait in a queue before its oldest goes
-- Replies  { results, unknown, broken, dead }: per partition 'OK', 'DUP' or the mark, where the mark lies below
--          prev (a gap: send everything behind the mark again); subscriptions whose settings this lane
--          lacks; queues that Redis refused; heads of the records that went to dead letters
--
-- Why one script: the mark and the entries that it stands for must not part. It is written last, so an
-- error on the way leaves a batch that is sent again, never one that is taken for sent.

local now = clock()
local stamp = string.format('%.0f', now)
local ttl, at = ARGV[1], 2
local subs, results, unknown, broken, dead, marks, moved = {}, {}, {}, {}, {}, {}, {}

local function known(id)
  local s = subs[id]
  if not s then
    s = load(id)
    s.added, s.grown, s.evicted = 0, 0, 0
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

local function dead_line(s, reason)
  return 'd ' .. s.id .. ' ' .. reason .. ' ' .. stamp .. '\n'
end

-- The oldest that waits goes, of the least urgent: whether there was one. So many in one call: a bound that was
-- lowered by far must not stop Redis, and what is left of the excess goes with the next messages.
local evictions = 200
local function evict(s)
  if evictions < 1 then return false end
  evictions = evictions - 1
  for at = #s.ranks, 1, -1 do
    local rank = string.sub(s.ranks, at, at)
    local key, oldest = queue(s.id, rank), nil
    if redis.call('TYPE', key).ok == 'stream' then
      pending(key)
      for _, place in ipairs({ 'again', 'later', 'held' }) do
        local row = redis.call('XPENDING', key, G, '-', '+', 1, place)[1]
        if row and (not oldest or after(oldest, row[1])) then oldest = row[1] end
      end
      if not oldest then
        local read = redis.call('XREADGROUP', 'GROUP', G, 'drop', 'COUNT', 1, 'STREAMS', key, '>')
        oldest = read and read[1][2][1] and read[1][2][1][1]
      end
    end
    if oldest then
      local row = redis.call('XRANGE', key, oldest, oldest)[1]
      if row then
        local tries = redis.pcall('HGET', P .. TRIES .. s.id, rank .. ':' .. oldest)
        tries = type(tries) == 'string' and tries or ''
        -- Where it cannot go to the dead letters it stays, and the queue grows to its own bound.
        if not pcall(lay_dead, s, rank, oldest, row[2], 'maxlen', tries, now) then
          redis.pcall('XCLAIM', key, G, 'again', 0, oldest, 'JUSTID')
          return false
        end
        trace(field(row[2], 'ref'), dead_line(s, 'maxlen'), ttl)
        dead[#dead + 1] = head(row[2])
      else
        redis.call('XACK', key, G, oldest)
      end
      s.evicted = s.evicted + 1
      return true
    end
  end
  return false
end

local function add(s, rank, ref, m, t, terms)
  local size = #m
  local most = terms.n
  while most and s.entries + s.added - s.evicted - s.busy >= most do
    -- What was added before must not be added again because this one could not go.
    local is_well, went = pcall(evict, s)
    if not (is_well and went) then break end
  end
  if s.entries + s.added - s.evicted >= s.max_entries or s.bytes + s.grown - s.shrunk + size > s.max_bytes then
    if not pcall(bury, s, rank, { 'm', m, 't', t, 'ref', ref }, 'queue_full', '', now) then
      broken[#broken + 1] = P .. DEAD .. s.id
      return ''
    end
    dead[#dead + 1] = head({ 'm', m })
    return dead_line(s, 'queue_full')
  end
  -- Order knows no priority.
  if s.ordered then rank = '1' end
  open_rank(s, rank)
  local row = { 'XADD', queue(s.id, rank), '*', 'm', m, 't', t, 'ref', ref }
  if terms.x then row[#row + 1] = 'x'; row[#row + 1] = terms.x end
  if terms.k and s.ordered then row[#row + 1] = 'k'; row[#row + 1] = terms.k end
  local id = redis.pcall(unpack(row))
  if type(id) == 'table' then
    broken[#broken + 1] = queue(s.id, rank)
    return ''
  end
  if terms.x then
    redis.pcall('ZADD', P .. EXPIRY .. s.id, terms.x, rank .. ':' .. id)
    s.expires = math.min(s.expires or 1e18, tonumber(terms.x))
  end
  s.added, s.grown = s.added + 1, s.grown + size
  return 'q ' .. s.id .. ' ' .. rank .. ' ' .. id .. ' ' .. stamp .. '\n'
end

local NONE = {}
local function read_terms(text)
  if #text < 2 then return NONE end
  return {
    h = string.match(text, ' h=(%d+%-%d+)'), x = string.match(text, ' x=(%d+)'), k = string.match(text, ' k=(%x+)'),
    n = tonumber(string.match(text, ' n=(%d+)')),
  }
end

while at <= #ARGV do
  local partition, prev, last, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  at = at + 4
  local mark = moved[partition] or redis.call('HGET', P .. MARKS, partition) or '0-0'
  local verdict = 'OK'
  if after(prev, mark) then verdict = mark elseif not after(last, mark) then verdict = 'DUP' end
  for _ = 1, count do
    local id, m, t, terms, n = unpack(ARGV, at, at + 4)
    at = at + 5
    if verdict == 'OK' and after(id, mark) then
      local keep = string.sub(terms, 1, 1) == '1'
      terms = read_terms(terms)
      local ref, lines = keep and partition .. ':' .. (terms.h or id) or '', ''
      for pair = at, at + 2 * n - 1, 2 do
        local s = known(ARGV[pair])
        if s.status ~= 'cancelled' then lines = lines .. add(s, ARGV[pair + 1], ref, m, t, terms) end
      end
      mark = id
      if terms.h then trace(ref, lines, ttl)
      elseif keep and lines ~= '' then redis.call('SET', P .. TRACE .. ref, lines, 'PX', ttl) end
    end
    at = at + 2 * n
  end
  if verdict == 'OK' then marks[#marks + 1] = partition; marks[#marks + 1] = last; moved[partition] = last end
  results[#results + 1] = verdict
end

for _, s in pairs(subs) do
  if s.added > 0 or s.evicted > 0 then
    redis.call('HINCRBY', s.key, 'bytes', s.grown - s.shrunk)
    if s.expires then
      redis.call('HSET', s.key, 'expiring', '1')
      redis.pcall('ZADD', P .. TIMERS, 'LT', s.expires, 'expire:' .. s.id)
    end
    if s.evicted > 0 then weigh(s) else s.fresh = s.fresh + s.added end
    arm(s, now)
  end
end
if #marks > 0 then redis.call('HSET', P .. MARKS, unpack(marks)) end
return { results, unknown, broken, dead }
