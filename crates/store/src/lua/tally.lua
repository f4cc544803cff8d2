#!lua
-- tally: add what an instance has counted to the figures of channels and tenants.
--
-- KEYS[1]  the partition's prefix
-- ARGV     instance, the number of this flush (rising), ms since its counting began and since it ended, the most
--          channels of one tenant here, ms for which minutes are kept and ms for which hours are, the share of
--          maxmemory above which no row is begun; then, per row, 3 values: '<tenant>/<channel>' (no channel: the
--          tenant as a whole), '1' if something happened there (else calls were refused, which alone bring no
--          channel into being), and the figures: an array of maps from numbers to numbers, as MessagePack
-- Replies  { rows added, rows passed over }: of channels that are one too many, or that nothing happened on;
--          { -1, 0 } this flush was added before
--
-- Rows lie by minute (a hash an hour), by hour (a hash of four days) and as a total. What is counted in a flush goes
-- to the minute in which its counting began. Adding is number by number: what the numbers mean is not known here.
--
-- Why one script: minutes, hours and totals must agree, and with the note that this flush was added, so that one of
-- unknown outcome can be sent again. It is refused by a full Redis; above `share` it begins no rows of channels, so
-- that figures never push out messages.

local P, me, flush = KEYS[1], ARGV[1], tonumber(ARGV[2])
local most, keep_minutes, keep_hours, share = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local note = P .. FIGURES_BY .. me
if flush <= tonumber(redis.call('GET', note) or 0) then return { -1, 0 } end

local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local began, ended = now - tonumber(ARGV[3]), now - tonumber(ARGV[4])
local minute = math.floor(began / 60000)
local hour = math.floor(minute / 60)
local block = math.floor(hour / 96)
local minutes = string.format('%s%s%.0f:', P, FIGURES_MINUTES, hour)
local hours = string.format('%s%s%.0f:', P, FIGURES_HOURS, block)
local minutes_end = string.format('%.0f', (hour + 1) * 3600000 + keep_minutes)
local hours_end = string.format('%.0f', (block + 1) * 96 * 3600000 + keep_hours)
local stamp = string.format('%.0f', ended)

local info = redis.call('INFO', 'memory')
local used, max = string.match(info, '\nused_memory:(%d+)'), string.match(info, '\nmaxmemory:(%d+)')
local plenty = tonumber(max) == 0 or tonumber(used) * 100 < tonumber(max) * share

-- What is no row counts as none.
local function read(packed)
  local fine, row = pcall(cmsgpack.unpack, packed)
  return fine and type(row) == 'table' and row or {}
end

local function add(key, field, packed, delta, ends, begin)
  local old = redis.call('HGET', key, field)
  if old then
    local row = read(old)
    for part, numbers in ipairs(delta) do
      local sum = row[part]
      if type(sum) ~= 'table' then sum = {}; row[part] = sum end
      for number, more in pairs(numbers) do sum[number] = (tonumber(sum[number]) or 0) + more end
    end
    redis.call('HSET', key, field, cmsgpack.pack(row))
  elseif begin then
    redis.call('HSET', key, field, packed)
    if ends then redis.call('PEXPIREAT', key, ends) end
  end
end

-- Whether there are figures of it, or there is room for them.
local function known(total, index, channel, happened)
  if redis.call('EXISTS', total) == 1 then return true end
  if not happened then return false end
  if channel ~= '' and redis.call('ZCARD', index) >= most then
    redis.call('ZREMRANGEBYSCORE', index, '-inf', string.format('%.0f', now - keep_hours))
    if redis.call('ZCARD', index) >= most then return false end
  end
  redis.call('HSET', total, 'created', string.format('%.0f', began))
  return true
end

local added, passed = 0, 0
for at = 9, #ARGV, 3 do
  local name, happened, packed = ARGV[at], ARGV[at + 1] == '1', ARGV[at + 2]
  local tenant, channel = string.match(name, '^([^/]*)/(.*)$')
  local total, index = P .. FIGURES_TOTAL .. name, P .. FIGURES_CHANNELS .. tenant
  -- A tenant's own figures tell of refused calls, too.
  if known(total, index, channel, happened or channel == '') then
    local delta, begin = read(packed), plenty or channel == ''
    add(minutes .. name, minute % 60, packed, delta, minutes_end, begin)
    add(hours .. name, hour % 96, packed, delta, hours_end, begin)
    add(total, 'row', packed, delta, nil, true)
    if happened then
      redis.call('HSET', total, 'last', stamp)
      if channel ~= '' then
        redis.call('ZADD', index, 'GT', stamp, channel)
        redis.call('PEXPIRE', index, ARGV[7])
      end
    end
    if happened or channel == '' then redis.call('PEXPIRE', total, ARGV[7]) end
    added = added + 1
  else
    passed = passed + 1
  end
end
redis.call('SET', note, ARGV[2], 'PX', ARGV[6])
return { added, passed }
