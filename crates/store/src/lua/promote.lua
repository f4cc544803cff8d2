#!lua flags=allow-oom
-- promote: timers that are due.
--
-- KEYS[1]  the lane's prefix
-- ARGV     me (a consumer's name), the most timers to handle, trace time to live in ms
-- Replies  { handled, next due, missed, notes, dead }: how many timers were handled, in ms the next one (-1 none), and
--          deliveries whose acknowledgment did not come, now mine to judge: { sub, change, { { rank, id,
--          lease number, tries, fields } } }; notes in the outbox; heads of the records that have expired
--
-- Why one script: a delivery leaves its timer and its place together. A timer whose delivery has moved on
-- (acknowledged, settled late, cancelled) is simply forgotten.

local me, ttl = ARGV[1], ARGV[3]
local now = clock()
local timers = P .. TIMERS
local subs, missed, expiries, dead = {}, {}, {}, {}

local function known(id)
  if not subs[id] then subs[id] = load(id) end
  return subs[id]
end

local function lies(key, id, place)
  local row = redis.pcall('XPENDING', key, G, id, id, 1)
  return not row.err and row[1] and row[1][2] == place and row[1][4]
end

-- What has expired and waits is dead. What is out was handed over in time: it is looked at again in a while, and
-- expires where its attempt fails.
local AGAIN_MS = 30000
-- So many in one call, over all subscriptions.
local may_expire = 200
local function expire(s)
  local expiry = P .. EXPIRY .. s.id
  if may_expire < 1 then return now end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', expiry, '-inf', now, 'LIMIT', 0, may_expire)) do
    may_expire = may_expire - 1
    local rank, id = string.match(name, '^(%d):(.*)$')
    local key = rank and queue(s.id, rank)
    local row = key and redis.call('XRANGE', key, id, id)[1]
    local held = row and redis.pcall('XPENDING', key, G, id, id, 1)
    local place = held and not held.err and held[1] and held[1][2]
    if not row then
      redis.call('ZREM', expiry, name)
    elseif place == 'ack' or (place and string.sub(place, 1, 2) == 'w-') then
      redis.call('ZADD', expiry, now + AGAIN_MS, name)
    else
      dead[#dead + 1] = head(row[2])
      lay_dead(s, rank, id, row[2], 'expired', redis.call('HGET', P .. TRIES .. s.id, name) or '', now)
      trace(field(row[2], 'ref'), 'd ' .. s.id .. ' expired ' .. string.format('%.0f', now) .. '\n', ttl)
    end
  end
  local first = redis.call('ZRANGE', expiry, 0, 0, 'WITHSCORES')
  if first[2] then return first[2] end
  redis.call('HDEL', s.key, 'expiring')
end

local due = redis.call('ZRANGEBYSCORE', timers, '-inf', now, 'LIMIT', 0, ARGV[2])
local function handle(kind, id, rank, entry)
  local s = known(id)
  local key = queue(id, rank)
  if kind == 'later' then
    if lies(key, entry, 'later') then redis.call('XCLAIM', key, G, 'again', 0, entry, 'JUSTID') end
  elseif kind == 'ack' then
    local number = lies(key, entry, 'ack')
    if number then
      local row = redis.call('XCLAIM', key, G, me, 0, entry)[1]
      if row then
        local tries = redis.pcall('HGET', P .. TRIES .. id, rank .. ':' .. entry)
        tries = type(tries) == 'string' and tries or ''
        missed[#missed + 1] = { id, s.change, { { rank, entry, number + 1, tries, row[2] } } }
      end
    end
  elseif kind == 'expire' and s.status then
    expiries['expire:' .. id] = expire(s)
  elseif kind == 'probe' and s.limit == 0 and s.status then
    s.limit = 1
    redis.call('HSET', s.key, 'limit', 1)
  end
end

for _, timer in ipairs(due) do
  local kind, id, rank, entry = string.match(timer, '^(%a+):([^:]+):?(%d?):?(.*)$')
  -- One subscription's key that is none must not stop the lane's timers: a sweep makes its own anew.
  if kind then pcall(handle, kind, id, rank, entry) end
end
for from = 1, #due, 1000 do
  redis.call('ZREM', timers, unpack(due, from, math.min(from + 999, #due)))
end
for timer, at in pairs(expiries) do redis.call('ZADD', timers, at, timer) end
for _, s in pairs(subs) do
  if s.shrunk > 0 then redis.pcall('HSET', s.key, 'bytes', math.max(0, s.bytes - s.shrunk)) end
  pcall(arm, s, now)
end
local next_due = redis.call('ZRANGE', timers, 0, 0, 'WITHSCORES')
return { #due, next_due[2] and math.max(0, tonumber(next_due[2]) - now) or -1, missed,
  redis.call('XLEN', P .. OUTBOX), dead }
