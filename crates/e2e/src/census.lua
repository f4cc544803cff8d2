-- Everything that lies under an environment, in one moment: per key { key, type, content, groups, added },
-- where added is how many entries a stream was ever given.
-- ARGV[1]  the environment
-- Of a record (field m) only its first line is told, without the payload; the index of ids is left out.

local function entries(rows)
  local out = {}
  for _, row in ipairs(rows) do
    local fields = {}
    for at = 1, #row[2], 2 do
      local name, value = row[2][at], row[2][at + 1]
      if name == 'm' then value = string.match(value, '^[^\n]*') end
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
    out[#out + 1] = { row[1], fields }
  end
  return out
end

local all = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  local kind = redis.call('TYPE', key)['ok']
  local content, groups, added = {}, {}, 0
  if string.find(key, ':ids:', 1, true) then
    kind = 'ids'
  elseif kind == 'string' then
    content = { redis.call('GET', key) }
  elseif kind == 'hash' then
    content = redis.call('HGETALL', key)
  elseif kind == 'set' then
    content = redis.call('SMEMBERS', key)
  elseif kind == 'zset' then
    content = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'stream' then
    content = entries(redis.call('XRANGE', key, '-', '+'))
    local info = redis.call('XINFO', 'STREAM', key)
    for at = 1, #info, 2 do
      if info[at] == 'entries-added' then added = info[at + 1] end
    end
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      local name, delivered
      for at = 1, #group, 2 do
        if group[at] == 'name' then name = group[at + 1] end
        if group[at] == 'last-delivered-id' then delivered = group[at + 1] end
      end
      groups[#groups + 1] = { name, delivered, redis.call('XPENDING', key, name, '-', '+', 1000000) }
    end
  end
  all[#all + 1] = { key, kind, content, groups, added }
end
return all
