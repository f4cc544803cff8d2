#!lua flags=allow-oom
-- disown: give back what a worker holds without knowing it (the reply that told it was lost), or all that
-- it holds (it stops).
--
-- KEYS[1]  the lane's prefix
-- ARGV     me, then "<subscription>:<rank>:<id>" of what it knows that it holds
-- Replies  deliveries given back
--
-- Why one script: what is given back must be armed in the same step, or it would lie there until a sweep.

local me = ARGV[1]
local now = clock()
local mine, given = {}, 0
for at = 2, #ARGV do mine[ARGV[at]] = true end
for _, id in ipairs(redis.call('SMEMBERS', P .. LIVE)) do
  local s = load(id)
  local found = false
  for rank in string.gmatch(s.ranks, '%d') do
    local key = queue(id, rank)
    if redis.call('TYPE', key).ok == 'stream' then
      pending(key)
      local from = '-'
      repeat
        local rows = redis.call('XPENDING', key, G, from, '+', 1000, me)
        for _, row in ipairs(rows) do
          if not mine[id .. ':' .. rank .. ':' .. row[1]] then
            redis.call('XCLAIM', key, G, 'again', 0, row[1], 'JUSTID')
            given, found = given + 1, true
          end
          from = '(' .. row[1]
        end
      until #rows < 1000
    end
  end
  if found then arm(s, now) end
end
return given
