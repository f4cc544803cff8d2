#!lua flags=allow-oom
-- sweep: find what a crash left lying: leases that ran out, tokens that were lost, entries that are gone.
--
-- KEYS[1]  the lane's prefix
-- ARGV     me (a consumer's name), lease in ms, cursor, the most subscriptions to look at, how many workers
--          live, their names, then "<subscription>:<rank>:<id>" of what I hold
-- Replies  { cursor, lost, rearmed, missing, unknown, cut }: where to go on ('0' when through),
--          deliveries whose worker is lost, now mine to judge (as promote's `missed`), tokens that had to
--          be made anew, entries that vanished from under the group, subscriptions with entries whose
--          settings this lane lacks, 1 where more were lost than one reply should hold: the same page again
--
-- Why one script: each repair looks and mends in one step, beside the moves that it must not cross.

local me, lease = ARGV[1], tonumber(ARGV[2])
local now = clock()
local live, mine = {}, {}
local workers = tonumber(ARGV[5])
for at = 6, 5 + workers do live[ARGV[at]] = true end
for at = 6 + workers, #ARGV do mine[ARGV[at]] = true end
local lost, unknown, rearmed, missing = {}, {}, 0, 0
local ready = P .. READY
local PAGE = 500
-- What one reply may hold.
local entries_left, bytes_left, cut = 1000, 8388608, 0

local function reclaim(s, q, worker)
  local from = '-'
  repeat
    local rows = redis.call('XPENDING', q.key, G, 'IDLE', lease, from, '+', PAGE, worker)
    for _, row in ipairs(rows) do
      from = '(' .. row[1]
      -- Who lives and knows what it holds has not lost it.
      if worker ~= me or not mine[s.id .. ':' .. q.rank .. ':' .. row[1]] then
        if entries_left < 1 or bytes_left < 1 then
          cut = 1
          return
        end
        local entry = redis.call('XCLAIM', q.key, G, me, lease, row[1])[1]
        if entry then
          local tries = redis.call('HGET', P .. TRIES .. s.id, q.rank .. ':' .. row[1]) or ''
          lost[#lost + 1] = { s.id, s.change, { { q.rank, row[1], row[4] + 1, tries, entry[2] } } }
          entries_left = entries_left - 1
          for at = 2, #entry[2], 2 do bytes_left = bytes_left - #entry[2][at] end
        end
      end
    end
  until #rows < PAGE
end

-- What lies `later` or `ack` without its timer would lie there for ever. Of many, each sweep looks at some,
-- and the next one goes on behind them.
local function mend_timers(s, q, place)
  local note = 'timed:' .. q.rank .. ':' .. place
  local from = redis.call('HGET', s.key, note)
  local rows = redis.call('XPENDING', q.key, G, from and '(' .. from or '-', '+', PAGE, place)
  if #rows > 0 then
    local names = {}
    for i, row in ipairs(rows) do names[i] = place .. ':' .. s.id .. ':' .. q.rank .. ':' .. row[1] end
    local due = redis.call('ZMSCORE', P .. TIMERS, unpack(names))
    for i, name in ipairs(names) do
      if not due[i] then
        redis.call('ZADD', P .. TIMERS, now, name)
        rearmed = rearmed + 1
      end
    end
  end
  if #rows == PAGE and s.status then redis.call('HSET', s.key, note, rows[PAGE][1])
  elseif from then redis.call('HDEL', s.key, note) end
end

-- Whoever holds a key's lock is in the queue, and whoever is held has a place behind a lock: where any of it was
-- deleted by hand, or lost with a server, the next one may go. Each sweep looks at some, and the next one goes on
-- behind them.
local function mend_order(s)
  local locks, held = P .. LOCKS .. s.id, P .. HELD .. s.id
  local page = redis.call('HSCAN', locks, redis.call('HGET', s.key, 'locks_at') or '0', 'COUNT', 100)
  redis.call('HSET', s.key, 'locks_at', page[1])
  for at = 1, #page[2], 2 do
    local rank, id = string.match(page[2][at + 1], '^(%d):(.*)$')
    if not rank or #redis.pcall('XPENDING', queue(s.id, rank), G, id, id, 1) == 0 then
      pass_on(s, page[2][at])
      rearmed = rearmed + 1
    end
  end
  local from = redis.call('HGET', s.key, 'held_at')
  local next_key = from and '(' .. from .. ';' or '-'
  for _ = 1, 100 do
    local first = redis.call('ZRANGE', held, next_key, '+', 'BYLEX', 'LIMIT', 0, 1)[1]
    from = first and string.match(first, '^([^:]*):')
    if not from then break end
    if redis.call('HEXISTS', locks, from) == 0 then
      pass_on(s, from)
      rearmed = rearmed + 1
    end
    next_key = '(' .. from .. ';'
  end
  if from then redis.call('HSET', s.key, 'held_at', from) else redis.call('HDEL', s.key, 'held_at') end
  local key = queue(s.id, '1')
  if redis.call('EXISTS', key) == 1 then
    local waiting = #redis.call('XPENDING', key, G, '-', '+', 1, 'held') > 0
    -- Some of them are noted nowhere.
    local count = 0
    for _, consumer in ipairs(waiting and redis.call('XPENDING', key, G)[4] or {}) do
      if consumer[1] == 'held' then count = tonumber(consumer[2]) end
    end
    if count > redis.call('ZCARD', held) then
      local note = redis.call('HGET', s.key, 'unnoted_at')
      local rows = redis.call('XPENDING', key, G, note and '(' .. note or '-', '+', 100, 'held')
      for _, row in ipairs(rows) do
        local entry = redis.call('XRANGE', key, row[1], row[1])[1]
        local k = entry and field(entry[2], 'k') or ''
        if k == '' or not redis.call('ZSCORE', held, place_in_line(k, row[1])) then
          redis.call('XCLAIM', key, G, 'again', 0, row[1], 'JUSTID')
          rearmed = rearmed + 1
        end
      end
      if #rows == 100 then redis.call('HSET', s.key, 'unnoted_at', rows[100][1])
      elseif note then redis.call('HDEL', s.key, 'unnoted_at') end
    end
  end
  if not s.ordered and redis.call('EXISTS', locks, held) == 0 then
    redis.call('HDEL', s.key, 'ordered', 'locks_at', 'held_at', 'unnoted_at')
  end
end

-- A consumer whose worker is gone and that holds nothing is only a name.
local function forget(q)
  for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', q.key, G)) do
    local name, held = row[2], row[4]
    if string.sub(name, 1, 2) == 'w-' and held == 0 and not live[name] then
      redis.call('XGROUP', 'DELCONSUMER', q.key, G, name)
    end
  end
end

-- The newest entry lies behind what the group has delivered, although the counts say that nothing waits:
-- the group holds entries that no longer exist.
local function hides_work(q)
  local newest = redis.call('XREVRANGE', q.key, '+', '-', 'COUNT', 1)[1]
  if not newest then return false end
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', q.key)) do
    if group[2] == G then
      for at = 1, #group, 2 do
        if group[at] == 'last-delivered-id' then return after(newest[1], group[at + 1]) end
      end
    end
  end
  return false
end

-- A place that is none: what lies there is due again.
local PLACES = { ack = true, later = true, again = true, held = true }
local function adopt_from(q, name)
  for _, row in ipairs(redis.call('XPENDING', q.key, G, '-', '+', PAGE, name)) do
    redis.call('XCLAIM', q.key, G, 'again', 0, row[1], 'JUSTID')
    rearmed = rearmed + 1
  end
end

-- Everything was delivered, and something counts as waiting: it was with a consumer that was deleted by hand.
local function adopt(q)
  for _, row in ipairs(redis.call('XRANGE', q.key, '-', '+', 'COUNT', PAGE)) do
    if #redis.call('XPENDING', q.key, G, row[1], row[1], 1) == 0 then
      redis.call('XCLAIM', q.key, G, 'again', 0, row[1], 'FORCE', 'JUSTID')
      rearmed = rearmed + 1
    end
  end
end

-- Dead letters age out after 14 days.
local DEAD_MS = 1209600000
for _, id in ipairs(redis.call('SRANDMEMBER', P .. DEADS, 8)) do
  local old = redis.call('XTRIM', P .. DEAD .. id, 'MINID', '~', string.format('%.0f-0', now - DEAD_MS))
  if old > 0 then redis.call('HINCRBY', P .. SUB .. id, 'dead_dropped', old) end
  if redis.call('EXISTS', P .. DEAD .. id) == 0 then redis.call('SREM', P .. DEADS, id) end
end

local page = redis.call('SSCAN', P .. LIVE, ARGV[3], 'COUNT', ARGV[4])
for _, id in ipairs(page[2]) do
  local s = load(id)
  if s.status == 'cancelled' then
    redis.call('SREM', P .. LIVE, id)
  else
    weigh(s)
    for _, q in ipairs(s.queues) do
      local p = pending(q.key)
      for _, consumer in ipairs(p[4] or {}) do
        local name = consumer[1]
        if string.sub(name, 1, 2) == 'w-' then reclaim(s, q, name)
        elseif not PLACES[name] then adopt_from(q, name) end
      end
      if (p[1] > 0 and redis.call('XLEN', q.key) < p[1]) or (q.fresh == 0 and hides_work(q)) then
        local gone = redis.call('XAUTOCLAIM', q.key, G, me, 9007199254740991, '0', 'COUNT', 1000)
        missing = missing + #gone[3]
      end
      if q.fresh > 0 and not hides_work(q) then adopt(q) end
      forget(q)
    end
    if s.locks then pcall(mend_order, s) end
    s.queues = nil
    weigh(s)
    if s.entries == 0 then
      local held = 0
      for _, q in ipairs(s.queues) do held = held + pending(q.key)[1] end
      if held == 0 then
        redis.call('SREM', P .. LIVE, id)
        redis.call('HDEL', s.key, 'bytes')
        -- Entries that vanished left theirs.
        redis.call('UNLINK', P .. TRIES .. id, P .. EXPIRY .. id)
      end
    end
    if not s.status then unknown[#unknown + 1] = id end
    if s.token and #redis.call('XRANGE', ready, s.token, s.token) == 0 then
      redis.call('HDEL', s.key, 'token')
      s.token = false
    end
    -- What waits behind a hold or an open circuit needs its timer to end the wait.
    if s.status == 'active' and s.limit == 0 and not redis.call('ZSCORE', P .. TIMERS, 'probe:' .. id) then
      redis.call('ZADD', P .. TIMERS, now, 'probe:' .. id)
    end
    if s.status == 'active' and s.hold > now and not redis.call('ZSCORE', P .. TIMERS, 'hold:' .. id) then
      redis.call('ZADD', P .. TIMERS, s.hold, 'hold:' .. id)
    end
    if redis.call('EXISTS', P .. EXPIRY .. id) == 1 and s.status then
      if not s.expiring then redis.call('HSET', s.key, 'expiring', '1') end
      if not redis.call('ZSCORE', P .. TIMERS, 'expire:' .. id) then
        redis.call('ZADD', P .. TIMERS, now, 'expire:' .. id)
      end
    end
    for _, q in ipairs(s.queues) do
      mend_timers(s, q, 'later')
      mend_timers(s, q, 'ack')
    end
    if arm(s, now) then rearmed = rearmed + 1 end
  end
end
return { page[1], lost, rearmed, missing, unknown, cut }
