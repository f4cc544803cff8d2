-- What every script that changes configuration begins with: telling of a change, and channels' settings.
--
-- KEYS[1] is the control prefix. Names behind it are the constants that keys.rs puts in front of this text.

local P = KEYS[1]

-- Adds a change to the stream, where it names the one before it, so that whoever follows sees where changes
-- are missing: let go after an hour, or lost with a server.
local function tell(kind, id, record)
  local prev, info = '0-0', redis.pcall('XINFO', 'STREAM', P .. CHANGES)
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then prev = info[at + 1] end
  end
  local old = string.format('%.0f-0', redis.call('TIME')[1] * 1000 - 3600000)
  return redis.call('XADD', P .. CHANGES, 'MINID', '~', old, '*',
    'kind', kind, 'id', id, 'prev', prev, 'record', record)
end

-- What a record says, as far as it can be read.
local function decoded(record)
  local ok, value = pcall(cjson.decode, record or '')
  return ok and type(value) == 'table' and value or {}
end

-- A channel's settings, by `<tenant>/<name>`; empty where it has none.
local function settings_of(channel)
  return decoded(redis.call('HGET', P .. SETTINGS, channel))
end

-- Forgets a channel's settings and tells of it. Its tenant then has one fewer.
local function forget(tenant, channel)
  redis.call('HDEL', P .. SETTINGS, channel)
  if redis.call('HINCRBY', P .. CONFIGURED, tenant, -1) <= 0 then
    redis.call('HDEL', P .. CONFIGURED, tenant)
  end
  return tell('channel', channel, '')
end
