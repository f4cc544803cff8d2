-- What every script begins with that lets messages into a partition: its clock, its gate, the index of its ids,
-- and what waits in it to become due.
--
-- KEYS[1] is the partition's prefix, ARGV[1] says for how many milliseconds ids are remembered. Names behind the
-- prefix are the constants that keys.rs puts in front of this text.

local P = KEYS[1]
local ingress, door = P .. INGRESS, P .. DOOR
local window = tonumber(ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local stamp = string.format('%.0f', now)
local age = math.floor(now / window)
local ages = { string.format('%.0f', age), string.format('%.0f', age - 1) }
local state =
  redis.call('HMGET', door, 'gate', 'depth:' .. ages[1], 'depth:' .. ages[2], 'ahead', 'delayed')

-- Before anything is added: the server's run_id is compared with the gate. A promoted replica may lack a tail, and
-- must not hand out ids again that a lane has already counted; nor must a stream that was deleted.
local function pass_gate(run_id)
  local exists = redis.call('EXISTS', ingress) == 1
  if state[1] == run_id and exists then return end
  local last = tonumber(state[4]) or 0
  for _, id in ipairs(redis.call('HVALS', P .. SENT)) do
    last = math.max(last, tonumber(string.match(id, '^(%d+)')) or 0)
  end
  if exists then
    local info = redis.call('XINFO', 'STREAM', ingress)
    for at = 1, #info, 2 do
      if info[at] == 'last-generated-id' then
        last = math.max(last, tonumber(string.match(info[at + 1], '^(%d+)')))
      end
    end
  else
    redis.call('XGROUP', 'CREATE', ingress, ROUTER, '0', 'MKSTREAM')
  end
  local ahead = string.format('%.0f', math.max(last, now) + 60000)
  redis.call('XSETID', ingress, ahead .. '-0')
  redis.call('HSET', door, 'gate', run_id, 'ahead', ahead)
end

-- Ids lie in small hashes, which Redis keeps compactly up to 128 fields: 1,024 of them in a window, and
-- eight times as many each time one has grown full. The window is fixed from an id's first use.
local FULL, DEEPEST = 120, 4
local windows = {}
for at, name in ipairs(ages) do
  windows[at] = { prefix = P .. IDS .. name .. ':', depth = tonumber(state[at + 1] or 0) }
end

local function slot(depth, number)
  return depth .. ':' .. number % (1024 * 8 ^ depth)
end

-- What the index says of an id: "<ingress id> <accepted at>", or with CANCELLED in the ingress id's place.
local CANCELLED = '0-0'
local function first_use(number, digest)
  for _, w in ipairs(windows) do
    for depth = w.depth, 0, -1 do
      local first = redis.call('HGET', w.prefix .. slot(depth, number), digest)
      if first and now - tonumber(string.match(first, ' (%d+)$')) < window then return first end
    end
  end
end

local function remember(number, digest, id)
  local w = windows[1]
  local key = w.prefix .. slot(w.depth, number)
  redis.call('HSET', key, digest, id .. ' ' .. stamp)
  local fields = redis.call('HLEN', key)
  if fields == 1 then
    redis.call('PEXPIRE', key, string.format('%.0f', 2 * window))
  elseif fields >= FULL and w.depth < DEEPEST then
    w.depth = w.depth + 1
    redis.call('HSET', door, 'depth:' .. ages[1], w.depth)
    -- Windows fill up with gaps between them: whatever lies before the last one goes, not only the one before it.
    for _, name in ipairs(redis.call('HKEYS', door)) do
      local old = tonumber(string.match(name, '^depth:(%d+)$'))
      if old and old < age - 1 then redis.call('HDEL', door, name) end
    end
  end
end

-- What waits to become due: "<number>:<digest>" in a set by due time, and in one of 1,024 hashes, by the number, its
-- body under the digest: "<published at> <tenant/channel>\n<record>". While a message waits, that hash stands for the
-- index, however long it waits. Where nothing waits, one look an invocation says so.
local any_delayed
local function delayed_body(number, digest)
  if any_delayed == nil then any_delayed = redis.call('EXISTS', P .. DELAYED) == 1 end
  return any_delayed and redis.call('HGET', P .. BODIES .. number % 1024, digest)
end

-- What is no body, put there by hand, is a record that nobody can read: a router puts it aside with its bytes.
local function open_body(body)
  local line = string.find(body, '\n', 1, true) or 1
  local published, channel = string.match(string.sub(body, 1, line - 1), '^(%d+) (.*)$')
  if not published then return stamp, nil, body end
  return published, channel, string.sub(body, line + 1)
end

-- The reply to an id that was used before: { 0, ingress id, accepted at, the first one's record ('' where history
-- has let it go), when that is due ('' unless it waits) }; nil for a new one.
local function seen_before(number, digest)
  local first = first_use(number, digest)
  if first then
    local id, at_ms = string.match(first, '^(%S+) (%d+)$')
    local row = redis.call('XRANGE', ingress, id, id)[1]
    local fields = row and row[2] or {}
    -- One that waited was published before it came here.
    return { 0, id, fields[5] == 'p' and fields[6] or at_ms, fields[2] or '', '' }
  end
  local body = delayed_body(number, digest)
  if body then
    local published, _, record = open_body(body)
    local due = redis.call('ZSCORE', P .. DELAYED, number .. ':' .. digest)
    return { 0, CANCELLED, published, record, due or '' }
  end
end
