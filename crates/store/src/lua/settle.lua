#!lua flags=allow-oom
-- settle: what became of deliveries that a worker held.
--
-- KEYS[1]  the lane's prefix
-- ARGV     me, trace time to live in ms, failures in a row that open a circuit, ms for which they must
--          have lasted, ms of a circuit's first opening, and of its longest; then, per subscription: id,
--          number of deliveries, and per delivery: rank, id, lease number, size, ref, place, argument,
--          tries, trace line ('' without an attempt), and what it says of the subscriber: '+' well, '-' ill,
--          then '@' and for how many ms it is to be held, or '@gone'.
--          Places: s settled, k awaiting its acknowledgment (ms to wait), l later (ms), a again,
--          d dead (reason)
-- Replies  { stale, next due, disabled, ready, notes }: outcomes that came from someone who no longer holds the
--          lease, in ms the next timer of this lane (-1 none), subscriptions that a second 410 disabled,
--          tokens that lie ready, notes in the outbox
--
-- Why one script: a delivery is in exactly one place. Success settles for whoever holds the entry: it was
-- delivered. Anything else counts only from the one who holds the lease: XACK would not ask. What does not
-- count says nothing of the subscriber either.

local me, ttl = ARGV[1], ARGV[2]
local trip, trip_ms, open_ms, open_max = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local now = clock()
local stale, disabled = 0, {}
local at = 7

local function holds(key, id, lease)
  local row = redis.pcall('XPENDING', key, G, id, id, 1)
  if row.err or not row[1] then return false end
  return row[1][2] == me and row[1][4] == lease
end

local function timer(kind, s, rank, id, ms)
  redis.call('ZADD', P .. TIMERS, now + ms, kind .. ':' .. s.id .. ':' .. rank .. ':' .. id)
end

local function move(key, place, id)
  redis.call('XCLAIM', key, G, place, 0, id, 'JUSTID')
end

local RUN = { 'window', 'good', 'bad', 'streak', 'streak_from', 'opened', 'delivered', 'failed', 'gone' }
local function load_run(s)
  local v = redis.call('HMGET', s.key, unpack(RUN))
  for i, name in ipairs(RUN) do s[name] = tonumber(v[i]) end
end

-- The one number that brakes a subscription, `limit`: halved after a second in which failures prevailed,
-- doubled after one in which they did not, 0 while the circuit is open.
local function brake(s, good, bad, set)
  local streak = s.streak or 0
  if bad == 0 and streak == 0 and s.limit >= s.cap then return end
  local window, from, opened = s.window or now, s.streak_from or now, s.opened or 0
  local goods, bads = (s.good or 0) + good, (s.bad or 0) + bad
  if good > 0 then
    streak, from, opened = 0, now, 0
    s.limit = math.max(s.limit, 1)
  else
    if streak == 0 then from = now end
    streak = streak + bad
  end
  if now - window >= 1000 or window > now then
    if bads > goods then s.limit = math.max(math.min(s.limit, 1), math.floor(s.limit / 2))
    elseif goods > 0 then s.limit = math.min(s.cap, s.limit * 2) end
    window, goods, bads = now, 0, 0
  end
  if bad > 0 and s.limit > 0 and trip > 0 and streak >= trip and now - from >= trip_ms then
    local wait = math.min(open_ms * 2 ^ math.min(opened, 20), open_max)
    s.limit, opened = 0, opened + 1
    redis.call('ZADD', P .. TIMERS, now + wait, 'probe:' .. s.id)
  end
  set('window', window) set('good', goods) set('bad', bads)
  set('streak', streak) set('streak_from', from) set('opened', opened) set('limit', s.limit)
end

-- 410 holds for a minute, once; a second 410 after that minute disables.
local function gone(s, set)
  if not s.gone then
    s.limit = math.min(s.limit, 1)
    set('gone', now) set('limit', s.limit)
    return 60000
  end
  if now - s.gone >= 60000 then
    s.status = 'disabled'
    set('status', 'disabled')
    redis.call('XADD', P .. OUTBOX, '*',
      'kind', 'disabled', 'sub', s.id, 'reason', 'answered 410 Gone twice, a minute apart', 'at', now)
    disabled[#disabled + 1] = s.id
  end
end

local function hold(s, ms, set)
  local till = now + ms
  if till <= s.hold then return end
  s.hold = till
  set('hold', till)
  redis.call('ZADD', P .. TIMERS, till, 'hold:' .. s.id)
end

-- The ordering keys of entries that are there still.
local function keys_of(key, ids)
  local keys = {}
  for i, id in ipairs(ids) do
    local rows = redis.pcall('XRANGE', key, id, id)
    if not rows.err and rows[1] then keys[i] = field(rows[1][2], 'k') end
  end
  return keys
end

while at <= #ARGV do
  local s = load(ARGV[at])
  local count = tonumber(ARGV[at + 1])
  at = at + 2
  local settled, shrunk, good, bad, held, is_gone = {}, 0, 0, 0, 0, false
  for _ = 1, count do
    local rank, id, lease, size, ref, place, arg, tries, line, said = unpack(ARGV, at, at + 9)
    at = at + 10
    local key, name = queue(s.id, rank), rank .. ':' .. id
    if place == 's' then
      local batch = settled[rank]
      if not batch then batch = { ids = {}, sizes = {}, names = {}, good = 0 }; settled[rank] = batch end
      batch.ids[#batch.ids + 1] = id
      batch.sizes[#batch.sizes + 1] = tonumber(size)
      batch.names[#batch.names + 1] = name
      if said == '+' then batch.good = batch.good + 1 end
      shrunk = shrunk + tonumber(size)
      trace(ref, line, ttl)
    elseif not holds(key, id, tonumber(lease)) then
      stale = stale + 1
    else
      if place == 'd' then
        local row = redis.call('XRANGE', key, id, id)[1]
        if row then lay_dead(s, rank, id, row[2], arg, tries, now)
        else
          redis.call('XACK', key, G, id)
          redis.call('HDEL', P .. TRIES .. s.id, name)
        end
        -- Without an attempt its death is all that there is to tell.
        if line == '' then line = string.format('d %s %s %.0f\n', s.id, arg, now) end
      else
        forget_timers(s, rank, { id })
        if place == 'l' then
          move(key, 'later', id)
          timer('later', s, rank, id, tonumber(arg))
        elseif place == 'k' then
          move(key, 'ack', id)
          timer('ack', s, rank, id, tonumber(arg))
        else
          move(key, 'again', id)
        end
        if tries ~= '' then redis.call('HSET', P .. TRIES .. s.id, name, tries) end
      end
      local sign, how = string.match(said, '^([+-]?)@?(.*)$')
      if sign == '+' then good = good + 1 elseif sign == '-' then bad = bad + 1 end
      if how == 'gone' then is_gone = true elseif how ~= '' then held = math.max(held, tonumber(how)) end
      trace(ref, line, ttl)
    end
  end
  local done = 0
  for rank, batch in pairs(settled) do
    local key = queue(s.id, rank)
    local before = done
    local keys = s.locks and keys_of(key, batch.ids) or {}
    for first = 1, #batch.ids, 1000 do
      local last = math.min(first + 999, #batch.ids)
      local acked = redis.pcall('XACK', key, G, unpack(batch.ids, first, last))
      acked = type(acked) == 'number' and acked or 0
      if acked <= last - first then
        -- What was settled before is not counted off again.
        for i = first, last do
          if #redis.pcall('XRANGE', key, batch.ids[i], batch.ids[i]) == 0 then shrunk = shrunk - batch.sizes[i] end
        end
      end
      -- What nobody had been given yet is not acknowledged, and gone all the same.
      local deleted = redis.pcall('XDEL', key, unpack(batch.ids, first, last))
      done = done + math.max(acked, type(deleted) == 'number' and deleted or 0)
    end
    -- Whoever comes late does not know what the delivery has been through since it was lost.
    if redis.call('HLEN', P .. TRIES .. s.id) > 0 then
      for first = 1, #batch.names, 1000 do
        redis.call('HDEL', P .. TRIES .. s.id, unpack(batch.names, first, math.min(first + 999, #batch.names)))
      end
    end
    if s.expiring then
      for first = 1, #batch.names, 1000 do
        redis.pcall('ZREM', P .. EXPIRY .. s.id, unpack(batch.names, first, math.min(first + 999, #batch.names)))
      end
    end
    forget_timers(s, rank, batch.ids)
    for i, k in pairs(keys) do unlock(s, rank, batch.ids[i], k) end
    good = good + math.min(batch.good, done - before)
    stale = stale + #batch.ids
  end
  stale = stale - done
  if s.status and s.status ~= 'cancelled' then
    local row = { 'HSET', s.key }
    local function set(name, value) row[#row + 1] = name; row[#row + 1] = value end
    load_run(s)
    if good + bad > 0 then
      if s.gone and good > 0 then redis.call('HDEL', s.key, 'gone') end
      -- Whoever pulls sets the pace.
      if s.status ~= 'pull' then brake(s, good, bad, set) end
      set('delivered', (s.delivered or 0) + done) set('failed', (s.failed or 0) + bad) set('active_at', now)
    end
    if is_gone then held = gone(s, set) or 0 end
    if held > 0 then hold(s, held, set) end
    shrunk = shrunk + s.shrunk
    if shrunk > 0 then set('bytes', math.max(0, s.bytes - shrunk)) end
    if #row > 2 then redis.call(unpack(row)) end
    arm(s, now)
  end
end
local due = redis.call('ZRANGE', P .. TIMERS, 0, 0, 'WITHSCORES')
return { stale, due[2] and math.max(0, tonumber(due[2]) - now) or -1, disabled, redis.call('XLEN', P .. READY),
  redis.call('XLEN', P .. OUTBOX) }
