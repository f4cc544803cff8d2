#!lua flags=allow-oom
-- take: turn ready tokens into entries in flight at one worker.
--
-- KEYS[1]  the lane's prefix
-- ARGV     me (a consumer's name), free places, free places that are not kept for others, quantum in
--          entries, quantum in bytes, the most tokens to look at, where to begin among them ('-', or
--          '(<id>'), bytes that may be taken in all, suspects that may be taken, how often lost makes one
-- Replies  { taken, left, passed, put off, wait }: per subscription { id, change, entries }, per entry { rank, id,
--          lease number, tries, fields }; tokens that are left; the last one that was passed over because
--          this worker may hold no more of that subscription ('' none); suspects that were put off; in ms the
--          next time at which a rate allows more (-1 none)
--
-- Why one script: a token and the entries that it stands for must not part, and credit is read from the
-- queue itself. A token never leaves this script half-used, so no worker can die holding one.

local me, free, spare = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local most, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local bytes, suspects, suspect_after = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local now = clock()
local ready = P .. READY
local taken, passed, put_off, wait = {}, '', 0, 1e9
local looked, back = 0, ''

-- A suspect that this worker may not take now goes aside here and not at the worker: what lies with a worker
-- is counted as lost with it. Each waits a little longer than the one before, so that they come one by one.
local function is_suspect(tries)
  local reclaims = string.match(tries, '^%d+ (%d+)')
  return reclaims and tonumber(reclaims) >= suspect_after
end

local hand = { to = me, bytes = bytes, passed_by = 0 }
function hand.put_aside(s, q, id, tries)
  local suspect = tries and is_suspect(tries)
  if not suspect then return false end
  if suspects > 0 then
    suspects = suspects - 1
    return false
  end
  put_off = put_off + 1
  redis.call('XCLAIM', q.key, G, 'later', 0, id, 'JUSTID')
  redis.call('ZADD', P .. TIMERS, now + 200 * math.min(put_off, 50), 'later:' .. s.id .. ':' .. q.rank .. ':' .. id)
  return true
end

local tokens = redis.call('XRANGE', ready, ARGV[7], '+', 'COUNT', ARGV[6])
for _, token in ipairs(tokens) do
  if free < 1 or hand.bytes < 1 or hand.passed_by >= PASSED_BY then break end
  looked = looked + 1
  local s = token[2][1] == 's' and load(token[2][2])
  if not s or s.token ~= token[1] then
    redis.call('XDEL', ready, token[1])
  else
    local n, leave = 0, false
    if s.status == 'active' and s.hold <= now then
      weigh(s, me)
      n = math.min(s.limit - s.busy, s.fresh + s.again, most, (allowance(s, now)))
      if s.bytes > 0 and s.entries > 0 then
        n = math.min(n, math.max(1, math.floor(math.min(most_bytes, hand.bytes) * s.entries / s.bytes)))
      end
      if n > 0 then
        local room = math.max(spare, s.mine == 0 and math.min(free, 1) or 0)
        if room < 1 then leave = true else n = math.min(n, room) end
      end
    end
    if leave then
      passed = token[1]
    else
      redis.call('XDEL', ready, token[1])
      s.token = false
      local got = 0
      if n > 0 then
        local entries = hand_out(s, hand, n)
        free, spare = free - #entries, spare - #entries
        spend(s, #entries, now)
        if #entries > 0 then taken[#taken + 1] = { s.id, s.change, entries } end
        got = #entries
      end
      local armed = arm(s, now)
      if s.wait then wait = math.min(wait, s.wait) end
      if not armed then redis.call('HDEL', s.key, 'token')
      elseif got > 0 then back = s.token
      else looked = -1000 end
    end
  end
end
-- Every token was looked at, and this worker may hold no more of those that it put back: it need not find
-- that out by another look.
if back ~= '' and spare < 1 and looked == #tokens and looked < tonumber(ARGV[6]) then passed = back end
return { taken, redis.call('XLEN', ready), passed, put_off, wait < 1e9 and wait or -1 }
