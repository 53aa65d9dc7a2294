-- scopes: stands before the verbs that move money. Sums a whole chunk's changes per scope, writes each counter once,
-- and reopens the flows that fit into what was freed.
--
-- Amounts are nano-dollars, integers below 2^53; they move by HINCRBY only.
local tallies = {}

local function count(scope, field, amount)
  if amount == 0 then return end
  local tally = tallies[scope]
  if not tally then
    tally = {}
    tallies[scope] = tally
  end
  tally[field] = (tally[field] or 0) + amount
end

local function room(scope)  -- nil when the scope has no limit
  local limit = redis.call('GET', P .. 'limit:' .. scope)
  if not limit then return nil end
  local used = redis.call('HMGET', P .. 'scope:' .. scope, 'spent', 'held', 'unconfirmed')
  return tonumber(limit) - tonumber(used[1] or 0) - tonumber(used[2] or 0) - tonumber(used[3] or 0)
end

local function reopen(scope)  -- parked flows whose need fits now, the longest starved one first
  local parked = P .. 'parked:' .. scope
  if redis.call('EXISTS', parked) == 0 then return end
  local free = room(scope)
  local starved = redis.call('GET', P .. 'starved:' .. scope)
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
  local freed = {}
  for scope, tally in pairs(tallies) do
    local change = (tally.spent or 0) + (tally.held or 0) + (tally.unconfirmed or 0)
    for field, amount in pairs(tally) do
      if amount ~= 0 then redis.call('HINCRBY', P .. 'scope:' .. scope, field, int(amount)) end
    end
    redis.call('SADD', P .. 'scopes', scope)
    if change < 0 then freed[#freed + 1] = scope end
  end
  tallies = {}
  for _, scope in ipairs(freed) do reopen(scope) end
end

local function doubt(token, amount, id, flow, names, why)  -- what this attempt cost cannot be known
  for _, scope in ipairs(names) do count(scope, 'unconfirmed', amount) end
  redis.call('HSET', P .. 'unconfirmed', token,
    int(amount) .. '\t' .. id .. '\t' .. flow .. '\t' .. int(now) .. '\t' .. (why ~= '' and why or 'unknown')
    .. '\t' .. table.concat(names, '\t'))
  if redis.call('EXISTS', 'arq:job:' .. id) == 1 then redis.call('HINCRBY', P .. 'strikes', id .. ':doubts', 1) end
end

local function read_doubt(record)  -- amount, id, scopes
  local fields = {}
  for field in string.gmatch(record, '[^\t]+') do fields[#fields + 1] = field end
  return tonumber(fields[1]), fields[2], {unpack(fields, 6)}
end

local function read_hold(record)  -- amount, id, flow, scopes
  local fields = {}
  for field in string.gmatch(record, '[^\t]+') do fields[#fields + 1] = field end
  return tonumber(fields[1]), fields[2], fields[3], {unpack(fields, 4)}
end
