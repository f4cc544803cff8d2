#!lua flags=no-writes
-- locate: where one message's deliveries of this lane lie, and what they have been through.
--
-- KEYS[1]  the lane's prefix
-- ARGV     the message's ref, "<partition>:<ingress id>"
-- Replies  { trace, rows }: per delivery { subscription, rank, id, place, due at }, where place is a
--          consumer's name, 'waiting', or 'gone' (settled, dead or cancelled: the trace says which)
--
-- Why one script: between two looks a delivery may move, and would be seen nowhere or twice.

local text = redis.call('GET', P .. TRACE .. ARGV[1])
if not text then return { '', {} } end
local rows = {}
for id, rank, entry in string.gmatch(text, '%f[^\n%z]q (%S+) (%d) (%d+%-%d+) %d+') do
  local key = queue(id, rank)
  local place, due = 'gone', ''
  local row = redis.pcall('XPENDING', key, G, entry, entry, 1)
  if not row.err and row[1] then
    place = row[1][2]
    if place == 'later' or place == 'ack' then
      due = redis.call('ZSCORE', P .. TIMERS, place .. ':' .. id .. ':' .. rank .. ':' .. entry) or ''
    end
  elseif redis.call('EXISTS', key) == 1 and #redis.call('XRANGE', key, entry, entry) > 0 then
    place = 'waiting'
  end
  rows[#rows + 1] = { id, rank, entry, place, due }
end
return { text, rows }
