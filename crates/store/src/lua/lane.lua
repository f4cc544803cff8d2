-- What every script of a lane begins with: reading a subscription, weighing its queues, arming it.
--
-- KEYS[1] is the lane's prefix, "<environment>:{<lane>}:". Names behind it are the constants that
-- keys.rs puts in front of this text.
--
-- A queue is a stream with one group, G. A place inside a queue is a consumer's name:
--   (not delivered)  waiting
--   w-<instance>     in flight at that worker
--   ack              awaiting its acknowledgment
--   later            scheduled for a retry
--   again            due once more
--   held             behind its ordering key

local P = KEYS[1]
local G = GROUP

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Stream ids compare as two numbers.
local function split(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function after(a, b)
  local am, as = split(a)
  local bm, bs = split(b)
  if am ~= bm then return am > bm end
  return as > bs
end

local function queue(id, rank)
  return P .. WORK .. id .. ':' .. rank
end

-- There is no note of a subscription's ranks: it has had no entry yet, or the note was deleted by hand.
local function look_for_ranks(id)
  local ranks = ''
  for rank = 3, 0, -1 do
    if redis.call('EXISTS', queue(id, rank)) == 1 then ranks = ranks .. rank end
  end
  if ranks ~= '' then redis.call('HSET', P .. SUB .. id, 'ranks', ranks) end
  return ranks
end

local function load(id)
  local v = redis.call('HMGET', P .. SUB .. id,
    'status', 'cap', 'limit', 'hold', 'token', 'ranks', 'bytes', 'max_entries', 'max_bytes', 'change',
    'ordered', 'rate', 'tat', 'dlq', 'expiring', 'acks')
  local cap = tonumber(v[2]) or 1
  return {
    id = id, key = P .. SUB .. id, status = v[1], cap = cap,
    limit = math.min(tonumber(v[3]) or cap, cap), hold = tonumber(v[4]) or 0,
    token = v[5], ranks = v[6] or look_for_ranks(id), bytes = tonumber(v[7]) or 0,
    max_entries = tonumber(v[8]) or 1000000, max_bytes = tonumber(v[9]) or 1073741824,
    change = v[10] or '0-0',
    -- `was`: no longer, but locks of before are still out.
    ordered = v[11] == '1', locks = v[11] == '1' or v[11] == 'was',
    rate = tonumber(v[12]), tat = tonumber(v[13]) or 0, dlq = v[14], expiring = v[15], acks = v[16] == '1',
    shrunk = 0,
  }
end

-- The group may have been deleted by hand: then everything in the stream waits again.
local function pending(key)
  local p = redis.pcall('XPENDING', key, G)
  if p.err then
    redis.call('XGROUP', 'CREATE', key, G, '0', 'MKSTREAM')
    return { 0 }
  end
  return p
end

-- Fills in, per rank and in all: what waits (fresh), what is due again, what is out (busy), what of it
-- is out at `me` (mine).
local function weigh(s, me)
  s.queues, s.fresh, s.again, s.busy, s.mine, s.entries = {}, 0, 0, 0, 0, 0
  for rank in string.gmatch(s.ranks, '%d') do
    local key = queue(s.id, rank)
    local q = { rank = rank, key = key, fresh = 0, again = 0 }
    local length = redis.pcall('XLEN', key)
    -- A key of another type is no queue: it must not stop the rest of the lane.
    if type(length) == 'table' then
      q = nil
    elseif length > 0 then
      local p = pending(key)
      local aside = 0
      for _, consumer in ipairs(p[4] or {}) do
        local name, count = consumer[1], tonumber(consumer[2])
        if name == 'again' then q.again = count
        elseif name == 'later' or name == 'held' then aside = aside + count
        elseif name == me then s.mine = s.mine + count end
      end
      q.fresh = math.max(0, length - p[1])
      s.fresh = s.fresh + q.fresh
      s.again = s.again + q.again
      s.busy = s.busy + p[1] - q.again - aside
      s.entries = s.entries + length
    end
    if q then s.queues[#s.queues + 1] = q end
  end
end

-- A rate is kept by a virtual clock (GCRA): each delivery moves it on by its share of a second, and it may be
-- ahead of the time by a burst. Replies how many deliveries the rate allows now, and after how many ms it allows
-- the next one.
local BURST_MS = 100
local function allowance(s, now)
  if not s.rate then return 1e9, 0 end
  local step = 1000 / s.rate
  local burst = math.max(step, BURST_MS)
  -- A clock that was set back would leave the virtual one far ahead.
  local tat = math.max(math.min(s.tat, now + burst), now)
  local allowed = math.floor((now + burst - tat) / step + 0.001)
  return allowed, allowed > 0 and 0 or math.ceil(tat + step - burst - now)
end

local function spend(s, count, now)
  if not s.rate or count < 1 then return end
  local step = 1000 / s.rate
  s.tat = math.max(math.min(s.tat, now + math.max(step, BURST_MS)), now) + count * step
  redis.call('HSET', s.key, 'tat', string.format('%.3f', s.tat))
end

-- Gives a subscription with work and credit its one token; one that is pulled has none, and its puller is woken.
-- Ends every script that touches a queue.
local function arm(s, now)
  local is_pulled = s.status == 'pull'
  if not is_pulled and (s.token or s.status ~= 'active' or s.hold > now) then return false end
  local _, wait = allowance(s, now)
  if wait > 0 then
    s.wait = wait
    redis.pcall('ZADD', P .. TIMERS, 'LT', now + wait, 'rate:' .. s.id)
    return false
  end
  if not s.queues then weigh(s) end
  if s.limit - s.busy < 1 or s.fresh + s.again < 1 then return false end
  if is_pulled then
    redis.call('PUBLISH', P .. PULL .. s.id, '')
    return false
  end
  -- If this is refused, a sweep makes up for it: what went before must not be undone or done again.
  local token = redis.pcall('XADD', P .. READY, '*', 's', s.id)
  if type(token) == 'table' then return false end
  s.token = token
  redis.call('HSET', s.key, 'token', s.token)
  return true
end

local function open_rank(s, rank)
  if string.find(s.ranks, rank, 1, true) then return end
  redis.pcall('XGROUP', 'CREATE', queue(s.id, rank), G, '0', 'MKSTREAM')
  local ranks = {}
  for known in string.gmatch(s.ranks .. rank, '%d') do ranks[#ranks + 1] = known end
  table.sort(ranks, function(a, b) return a > b end)
  s.ranks = table.concat(ranks)
  redis.call('HSET', s.key, 'ranks', s.ranks)
end

local function field(fields, name)
  for at = 1, #fields, 2 do
    if fields[at] == name then return fields[at + 1] end
  end
  return ''
end

-- The head of an entry's record, which says whose message it is and of which channel; what is no entry has none.
local function head(fields)
  return string.match(field(fields, 'm'), '^%d+ [^\n]*\n') or ''
end

-- Adds a line to a message's trace here. A trace that has run out is begun anew, with a time to live.
local function trace(ref, line, ttl)
  if ref == '' or line == '' then return end
  local key = P .. TRACE .. ref
  if redis.call('APPEND', key, line) == #line then redis.call('PEXPIRE', key, ttl) end
end

-- Puts an entry's fields among a subscription's dead letters, which have a bound of their own: at it the
-- oldest is let go, and counted. What has more fields than Lua can pass on loses its last ones.
-- Where the subscription names a channel for its dead letters, a copy leaves the lane.
local DEAD_BOUND, MOST_FIELDS = 100000, 4000
local function bury(s, rank, fields, reason, tries, now)
  local key = P .. DEAD .. s.id
  local row = { 'XADD', key, '*' }
  for at = 1, math.min(#fields, MOST_FIELDS) do row[#row + 1] = fields[at] end
  for _, extra in ipairs({ 'rank', rank, 'reason', reason, 'tries', tries, 'died', now }) do
    row[#row + 1] = extra
  end
  local id = redis.call(unpack(row))
  -- It lies there: what is refused from here on must not bring it here once more.
  redis.pcall('SADD', P .. DEADS, s.id)
  if redis.call('XLEN', key) > DEAD_BOUND then
    redis.pcall('HINCRBY', s.key, 'dead_dropped', redis.call('XTRIM', key, 'MAXLEN', DEAD_BOUND))
  end
  if s.dlq and s.dlq ~= '' then
    redis.pcall('XADD', P .. OUTBOX, '*', 'kind', 'dead', 'sub', s.id, 'reason', reason, 'at', now,
      'dlq', s.dlq, 'dead', id)
  end
  return id
end

-- Order. The one delivery of an ordering key that may be out has the key's lock; those behind it are `held`, and
-- noted by key and entry. The lock goes on when its holder is settled or dead; a retry keeps it.

local function place_in_line(k, id)
  local ms, seq = split(id)
  return string.format('%s:%016.0f-%016.0f', k, ms, seq)
end

-- Whether a delivery may go out: it has its key's lock, or gets it. Else it is held.
local function may_go(s, rank, id, k)
  if k == '' then return true end
  local name, locks = rank .. ':' .. id, P .. LOCKS .. s.id
  local holder = redis.pcall('HGET', locks, k)
  -- Where locks cannot be kept there is no order, but deliveries.
  if type(holder) == 'table' then return true end
  if holder and holder ~= name then
    if type(redis.pcall('ZADD', P .. HELD .. s.id, 0, place_in_line(k, id))) == 'table' then return true end
    redis.call('XCLAIM', queue(s.id, rank), G, 'held', 0, id, 'JUSTID')
    return false
  end
  if not holder then redis.call('HSET', locks, k, name) end
  return true
end

-- Gives a key's lock to whoever is next, or up.
local function pass_on(s, k)
  local locks, held = P .. LOCKS .. s.id, P .. HELD .. s.id
  while true do
    local first = redis.call('ZRANGE', held, '[' .. k .. ':', '(' .. k .. ';', 'BYLEX', 'LIMIT', 0, 1)[1]
    if not first then
      redis.call('HDEL', locks, k)
      return
    end
    redis.call('ZREM', held, first)
    local ms, seq = string.match(first, ':(%d+)%-(%d+)$')
    local id = string.format('%.0f-%.0f', tonumber(ms), tonumber(seq))
    -- What was ordered has one rank.
    if #redis.call('XCLAIM', queue(s.id, '1'), G, 'again', 0, id, 'JUSTID') > 0 then
      redis.call('HSET', locks, k, '1:' .. id)
      return
    end
  end
end

-- A delivery has left its queue: whoever waited behind it may go. It has left: what is refused here a sweep mends.
local function unlock(s, rank, id, k)
  if k == '' then return end
  if redis.pcall('HGET', P .. LOCKS .. s.id, k) == rank .. ':' .. id then
    pcall(pass_on, s, k)
  else
    redis.pcall('ZREM', P .. HELD .. s.id, place_in_line(k, id))
  end
end

-- Who acknowledges for himself does so long before the timer that would take the delivery back: it goes at once.
local function forget_timers(s, rank, ids)
  if not s.acks then return end
  for first = 1, #ids, 1000 do
    local names = {}
    for i = first, math.min(first + 999, #ids) do
      names[#names + 1] = 'ack:' .. s.id .. ':' .. rank .. ':' .. ids[i]
      names[#names + 1] = 'later:' .. s.id .. ':' .. rank .. ':' .. ids[i]
    end
    redis.pcall('ZREM', P .. TIMERS, unpack(names))
  end
end

-- Takes an entry out of its queue for good and puts it among the dead letters.
local function lay_dead(s, rank, id, fields, reason, tries, now)
  bury(s, rank, fields, reason, tries, now)
  local key, name = queue(s.id, rank), rank .. ':' .. id
  redis.call('XACK', key, G, id)
  redis.call('XDEL', key, id)
  redis.pcall('HDEL', P .. TRIES .. s.id, name)
  if s.expiring then redis.pcall('ZREM', P .. EXPIRY .. s.id, name) end
  forget_timers(s, rank, { id })
  if s.locks then unlock(s, rank, id, field(fields, 'k')) end
  s.shrunk = s.shrunk + #field(fields, 'm')
end
