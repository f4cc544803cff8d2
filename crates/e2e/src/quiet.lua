-- Whether a town is quiet: { partitions with unrouted entries, entries in queues and messages not due yet }.
-- ARGV: number of partitions, their prefixes, then the names of work queues

local count, unrouted, queued = tonumber(ARGV[1]), 0, 0
for at = 2, count + 1 do
  local newest = redis.call('XREVRANGE', ARGV[at] .. 'ingress', '+', '-', 'COUNT', 1)[1]
  queued = queued + redis.call('ZCARD', ARGV[at] .. 'delayed')
  if newest then
    local routed = '0-0'
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', ARGV[at] .. 'ingress')) do
      if group[2] == 'router' then
        for field = 1, #group, 2 do
          if group[field] == 'last-delivered-id' then routed = group[field + 1] end
        end
      end
    end
    -- An id just before a time is written with the highest sequence there is, which no double holds: so a
    -- plain comparison of the parts' text, by length first.
    local function less(a, b)
      if #a ~= #b then return #a < #b end
      return a < b
    end
    local am, as = string.match(routed, '^(%d+)%-(%d+)$')
    local bm, bs = string.match(newest[1], '^(%d+)%-(%d+)$')
    if less(am, bm) or (am == bm and less(as, bs)) then unrouted = unrouted + 1 end
  end
end
for at = count + 2, #ARGV do queued = queued + redis.call('XLEN', ARGV[at]) end
return { unrouted, queued }
