-- What take and pull share: handing out what is due again, and what is new, of one subscription.
--
-- A hand is { to = the consumer, bytes = how many may still be handed out, passed_by = 0, put_aside = a function of a delivery's
-- rank, id and tries that says whether it is passed over, refuse = where there is one, a function of an entry that
-- says whether it is not handed out after all }.

local function weight(fields)
  local sum = 0
  for at = 2, #fields, 2 do sum = sum + #fields[at] end
  return sum
end

-- How many are read before their bytes are counted, and how many that are not handed out one look may pass by.
local AT_ONCE, PASSED_BY = 64, 256

-- Hands out one entry; it is held instead where another of its ordering key is out.
local function give(s, q, hand, entries, id, number, tries, fields)
  if hand.refuse and hand.refuse(s, q, id, tries, fields)
    or s.ordered and not may_go(s, q.rank, id, field(fields, 'k')) then
    hand.passed_by = hand.passed_by + 1
    return
  end
  entries[#entries + 1] = { q.rank, id, number, tries, fields }
  hand.bytes = hand.bytes - weight(fields)
end

-- Replies how many are no longer due again.
local function due_again(s, q, hand, n, entries)
  -- Lua cannot pass on more than some thousands at once.
  local rows = redis.call('XPENDING', q.key, G, '-', '+', math.min(n, 1000), 'again')
  if #rows == 0 then return 0 end
  local names = {}
  for i, row in ipairs(rows) do names[i] = q.rank .. ':' .. row[1] end
  local tries = redis.call('HMGET', P .. TRIES .. s.id, unpack(names))
  local ids, numbers, text = {}, {}, {}
  for i, row in ipairs(rows) do
    local id = row[1]
    if not hand.put_aside(s, q, id, tries[i]) then
      ids[#ids + 1] = id
      numbers[id] = row[4] + 1
      text[id] = tries[i] or ''
    end
  end
  if #ids == 0 then return #rows end
  for _, entry in ipairs(redis.call('XCLAIM', q.key, G, hand.to, 0, unpack(ids))) do
    if entry then give(s, q, hand, entries, entry[1], numbers[entry[1]], text[entry[1]], entry[2]) end
  end
  return #rows
end

-- Replies how many are no longer new.
local function fresh(s, q, hand, n, entries)
  local read = redis.call('XREADGROUP', 'GROUP', G, hand.to, 'COUNT', n, 'STREAMS', q.key, '>')
  if not read then return 0 end
  for _, entry in ipairs(read[1][2]) do give(s, q, hand, entries, entry[1], 1, '', entry[2]) end
  return #read[1][2]
end

-- Hands out at most `n` of a subscription that was weighed: the entries, as leases read them.
local function hand_out(s, hand, n)
  local entries = {}
  local from, to, step = 1, #s.queues, 1
  -- Every eighth time begins at the bottom, so that a stream of urgent messages starves none.
  if #s.queues > 1 and redis.call('HINCRBY', s.key, 'turn', 1) % 8 == 0 then
    from, to, step = #s.queues, 1, -1
  end
  for i = from, to, step do
    local q = s.queues[i]
    if #entries < n and q.again > 0 then
      s.again = s.again - due_again(s, q, hand, math.min(q.again, n - #entries), entries)
    end
    local left = q.fresh
    while #entries < n and left > 0 and hand.bytes > 0 and hand.passed_by < PASSED_BY do
      local asked = math.min(left, n - #entries, AT_ONCE)
      local count = fresh(s, q, hand, asked, entries)
      -- What is counted and not handed out belongs to nobody until a sweep finds it: no token for it.
      local gone = count < asked and left or count
      left, s.fresh = left - gone, s.fresh - gone
    end
  end
  s.busy = s.busy + #entries
  return entries
end
