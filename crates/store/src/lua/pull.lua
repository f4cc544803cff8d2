#!lua flags=allow-oom
-- pull: hand out deliveries of one subscription to whoever asks; they await their acknowledgment.
--
-- KEYS[1]  the lane's prefix
-- ARGV     subscription, the most entries, the most bytes, ms in which they must be acknowledged, trace time to
--          live in ms
-- Replies  { status, change, entries, wait, dead }: the subscription's status here ('' unknown), entries as take hands
--          them out, in ms when a rate allows more (-1: it does not limit now), heads of the records that have expired
--
-- Why one script: a delivery is handed out together with the timer that takes it back.

local id, most, most_bytes, ack_ms, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local now = clock()
local s = load(id)
if s.status ~= 'pull' then return { s.status or '', s.change, {}, -1, {} } end
weigh(s)
local allowed, wait = allowance(s, now)
local n = math.min(s.limit - s.busy, s.fresh + s.again, most, allowed)
if s.bytes > 0 and s.entries > 0 then
  n = math.min(n, math.max(1, math.floor(most_bytes * s.entries / s.bytes)))
end
local entries, dead = {}, {}
if n > 0 then
  local hand = { to = 'ack', bytes = most_bytes, passed_by = 0, put_aside = function() return false end }
  -- What has expired is dead, also where its timer is late.
  function hand.refuse(of, q, entry, tries, fields)
    local x = tonumber(field(fields, 'x'))
    if not x or x > now then return false end
    dead[#dead + 1] = head(fields)
    lay_dead(of, q.rank, entry, fields, 'expired', tries, now)
    trace(field(fields, 'ref'), 'd ' .. id .. ' expired ' .. string.format('%.0f', now) .. '\n', ttl)
    return true
  end
  entries = hand_out(s, hand, n)
  spend(s, #entries, now)
  local stamp = string.format('%.0f', now)
  for _, entry in ipairs(entries) do
    redis.call('ZADD', P .. TIMERS, now + ack_ms, 'ack:' .. id .. ':' .. entry[1] .. ':' .. entry[2])
    trace(field(entry[5], 'ref'), 'p ' .. id .. ' ' .. stamp .. '\n', ttl)
  end
  if #entries > 0 then redis.call('HSET', s.key, 'active_at', now) end
end
if s.shrunk > 0 then
  redis.call('HSET', s.key, 'bytes', math.max(0, s.bytes - s.shrunk))
  s.queues = nil
end
arm(s, now)
return { s.status, s.change, entries, wait > 0 and wait or -1, dead }
