-- scopes: stands before the verbs that move held money. Knows what room a limit leaves, reopens the flows that fit into
-- what was freed, and reads and writes the records of holds and of unconfirmed money.
--
-- A siding is a flow beside a flow: there jobs wait for a limit, the smallest first, so that others of the flow go on.
--
-- A limit's name is that of its scope, for good, or "day:" or "month:" and its scope, for the window of now.
local function parts_of_limit(name)  -- scope, and "day", "month" or nil
  local per, scope = string.match(name, '^(%a+):(.+)$')
  if this[per or ''] then return scope, per end
  return name
end

local function used(name)  -- what counts against a limit, and how much of it is held
  local scope, per = parts_of_limit(name)
  local sum = 0
  local fields = {'held', not per and 'spent' or nil, not per and 'unconfirmed' or nil}
  local counts = redis.call('HMGET', P .. 'scope:' .. scope, unpack(fields))
  for i = 1, #counts do sum = sum + tonumber(counts[i] or 0) end
  local held = tonumber(counts[1] or 0)
  if per then
    counts = redis.call('HMGET', P .. 'window:' .. per .. ':' .. this[per], 'spent ' .. scope, 'unconfirmed ' .. scope)
    for i = 1, #counts do sum = sum + tonumber(counts[i] or 0) end
  end
  return sum, held
end

local function room(name)  -- and what is held; nil when there is no limit; what is no number leaves none, for its scope alone
  local limit = redis.call('GET', P .. 'limit:' .. name)
  if not limit then return end
  local amount, held = used(name)
  return (tonumber(limit) or 0) - amount, held
end

local LOOK_AHEAD = 256  -- jobs of a flow that may wait aside because they fit no more: smaller ones may stand behind them

local function siding_of(flow, name)
  local priority, batch, lane = parts(flow)
  return P .. 'flow:' .. priority .. ':' .. batch .. '+' .. string.gsub(name, ':', '+') .. ':' .. lane
end

local function look_again(name, free)  -- nothing in flight makes room any more: what parked for one job may hold smaller ones
  for _, flow in ipairs(redis.call('ZRANGEBYSCORE', P .. 'parked:' .. name, '(' .. int(free), '+inf', 'LIMIT', 0, 1000)) do
    local siding = siding_of(flow, name)
    if siding ~= flow and redis.call('ZCARD', siding) < LOOK_AHEAD then
      unpark(flow)
      open(flow)
    end
  end
end

local function reopen(name)  -- parked flows whose need fits now, the longest starved one first
  local parked = P .. 'parked:' .. name
  if redis.call('EXISTS', parked) == 0 then return end
  local free, held = room(name)
  if held == 0 then look_again(name, free) end
  local starved = redis.call('GET', P .. 'starved:' .. name)
  if starved and free then  -- nothing smaller goes before it, until it is admitted
    local need = redis.call('ZSCORE', parked, starved)
    if need and tonumber(need) <= free then
      unpark(starved)
      open(starved)
    end
    return
  end
  local fits = redis.call('ZRANGEBYSCORE', parked, '-inf', free and int(free) or '+inf', 'WITHSCORES', 'LIMIT', 0, 1000)
  for i = 1, #fits, 2 do
    if free then
      free = free - tonumber(fits[i + 1])
      if free < 0 then return end
    end
    unpark(fits[i])
    open(fits[i])
  end
end

local function flush()
  local freed = write_books()
  if #freed == 0 or redis.call('EXISTS', P .. 'parking') == 0 then return end
  for _, name in ipairs(freed) do reopen(name) end
end

local function mark(claim, numbers, ttl)  -- attempts of a claim as settled, their numbers by two spaces, for so many ms
  local key = P .. 'marks:' .. claim
  redis.call('APPEND', key, ' ' .. numbers .. ' ')
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
end

local function is_among(marks, number)
  return marks and string.find(marks, ' ' .. number .. ' ', 1, true) ~= nil
end

local function doubt(token, amount, id, flow, set, why)  -- what this attempt cost cannot be known
  why = why ~= '' and why or 'unknown'
  count(set, 'unconfirmed', amount)
  post(token, 'd', id, set, today, short(amount), '\t\t\t\t\t\t' .. why)
  redis.call('HSET', P .. 'unconfirmed', token,
    table.concat({int(amount), id, flow, int(now), why, set}, '\t'))
  if redis.call('EXISTS', 'arq:job:' .. id) == 1 then redis.call('HINCRBY', P .. 'strikes', id .. ':doubts', 1) end
end

local function read_doubt(record)  -- amount, id, set, the day since which it is owed
  local amount, id, since, set = string.match(record, '^(%d+)\t([^\t]*)\t[^\t]*\t(%d+)\t[^\t]*\t?(.*)$')
  return tonumber(amount), id, set, math.floor(tonumber(since) / 86400000)
end

local function read_hold(record)  -- amount, set, the amount as it is written
  local amount_ends = string.find(record, '\t', 1, true)
  local id_ends = string.find(record, '\t', amount_ends + 1, true)
  local flow_ends = string.find(record, '\t', id_ends + 1, true)
  local amount = string.sub(record, 1, amount_ends - 1)
  return amount + 0, flow_ends and string.sub(record, flow_ends + 1) or '', amount
end
