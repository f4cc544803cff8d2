#!lua flags=allow-oom
-- sweep: find what a crash left lying: leases that ran out, tokens that were lost, entries that are gone.
--
-- KEYS[1]  the lane's prefix
-- ARGV     me (a consumer's name), lease in ms, cursor, the most subscriptions to look at, then the names
--          of the workers that live
-- Replies  { cursor, lost, rearmed, missing, unknown }: where to go on ('0' when through),
--          deliveries whose worker is lost, now mine to judge (as promote's `missed`), tokens that had to
--          be made anew, entries that vanished from under the group, subscriptions with entries whose
--          settings this lane lacks
--
-- Why one script: each repair looks and mends in one step, beside the moves that it must not cross.

local me, lease = ARGV[1], tonumber(ARGV[2])
local now = clock()
local live = {}
for at = 5, #ARGV do live[ARGV[at]] = true end
local lost, unknown, rearmed, missing = {}, {}, 0, 0
local ready = P .. READY

local function reclaim(s, q, worker)
  local rows = redis.call('XPENDING', q.key, G, 'IDLE', lease, '-', '+', 32, worker)
  for _, row in ipairs(rows) do
    local entry = redis.call('XCLAIM', q.key, G, me, lease, row[1])[1]
    if entry then
      local tries = redis.call('HGET', P .. TRIES .. s.id, q.rank .. ':' .. row[1]) or ''
      lost[#lost + 1] = { s.id, s.change, { { q.rank, row[1], row[4] + 1, tries, entry[2] } } }
    end
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
        if string.sub(consumer[1], 1, 2) == 'w-' then reclaim(s, q, consumer[1]) end
      end
      if (p[1] > 0 and redis.call('XLEN', q.key) < p[1]) or (q.fresh == 0 and hides_work(q)) then
        local gone = redis.call('XAUTOCLAIM', q.key, G, me, 9007199254740991, '0', 'COUNT', 1000)
        missing = missing + #gone[3]
      end
      forget(q)
    end
    s.queues = nil
    weigh(s)
    if s.entries == 0 then
      local held = 0
      for _, q in ipairs(s.queues) do held = held + pending(q.key)[1] end
      if held == 0 then
        redis.call('SREM', P .. LIVE, id)
        redis.call('HDEL', s.key, 'bytes')
        -- A late success does not know what the delivery has been through since it was lost.
        redis.call('UNLINK', P .. TRIES .. id)
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
    -- What lies `later` or `ack` without its timer would lie there for ever.
    for _, q in ipairs(s.queues) do
      for _, place in ipairs({ 'later', 'ack' }) do
        for _, row in ipairs(redis.call('XPENDING', q.key, G, '-', '+', 32, place)) do
          local timer = place .. ':' .. id .. ':' .. q.rank .. ':' .. row[1]
          if not redis.call('ZSCORE', P .. TIMERS, timer) then
            redis.call('ZADD', P .. TIMERS, now, timer)
            rearmed = rearmed + 1
          end
        end
      end
    end
    if arm(s, now) then rearmed = rearmed + 1 end
  end
end
return { page[1], lost, rearmed, missing, unknown }
