-- admit: set the worst-case cost of claimed jobs aside, each all or nothing over its scopes.
--
-- ARGV[4]  number of scopes, then their names
-- then per job: id, flow, token, score to go back to, hold in nano-dollars (-1: no price is known), positions of its
--   scopes (from 1, by ",")
--
-- Returns {seq, per job: "ok" | "no_room <scope> <need>" | "unpriced" (and a limit applies) | "cancelled" | "lost"}
-- Invariant: spent + held + unconfirmed ≤ limit, for every limited scope, after every admit.
-- A job without room goes back to its place and its flow parks; jobs of that flow behind it go back too.
local names, limits, used, starved = {}, {}, {}, {}
for i = 1, tonumber(ARGV[4]) do
  local name = ARGV[4 + i]
  names[i] = name
  local limit = redis.call('GET', P .. 'limit:' .. name)
  limits[i] = limit and tonumber(limit) or nil
  if limits[i] then
    local counted = redis.call('HMGET', P .. 'scope:' .. name, 'spent', 'held', 'unconfirmed')
    used[i] = tonumber(counted[1] or 0) + tonumber(counted[2] or 0) + tonumber(counted[3] or 0)
    starved[i] = redis.call('GET', P .. 'starved:' .. name)
  end
end

local verdicts, holds, shut, cancelled = {seq}, {}, {}, {}

local function is_cancelled(flow)
  local _, batch = parts(flow)
  if cancelled[batch] == nil then
    cancelled[batch] = redis.call('HEXISTS', P .. 'batch:' .. batch, 'cancelled') == 1
  end
  return cancelled[batch]
end

local function obstacle(flow, hold, scopes)  -- the first scope that has no room
  if hold == 0 then return nil end
  for _, i in ipairs(scopes) do
    if limits[i] then
      if starved[i] and starved[i] ~= flow then return i end
      if used[i] + hold > limits[i] then return i end
    end
  end
end

local function limited(scopes)
  for _, i in ipairs(scopes) do
    if limits[i] then return true end
  end
  return false
end

local function go_back(id, flow, score)
  local _, _, lane = parts(flow)
  redis.call('ZADD', flow, score, id)
  redis.call('ZREM', P .. 'leases:' .. lane, id)
  redis.call('DEL', 'arq:in-progress:' .. id)
end

local function yield(flow, scope)  -- it waits for this scope now: it keeps nobody out of others
  for i, name in ipairs(names) do
    if starved[i] == flow and name ~= scope then
      redis.call('DEL', P .. 'starved:' .. name)
      starved[i] = nil
    end
  end
end

local function park(flow, scope, need)
  local _, _, lane = parts(flow)
  redis.call('ZREM', P .. 'open:' .. lane, flow)
  redis.call('ZREM', P .. 'wait:' .. lane, flow)
  local parked = redis.call('HGET', P .. 'parking', flow)
  local since = int(now)
  if parked then  -- by another worker's job: the smaller need decides when the flow is tried again
    local before, needed, time = string.match(parked, '^([^\t]*)\t(%d+)\t(%d+)')
    if before ~= scope or tonumber(needed) <= need then return end
    since = time
  end
  redis.call('HSET', P .. 'parking', flow, scope .. '\t' .. int(need) .. '\t' .. since)
  redis.call('ZADD', P .. 'parked:' .. scope, int(need), flow)
end

for at = 5 + #names, #ARGV, 6 do
  local id, flow, token, score, hold = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local scopes, listed = {}, {}
  for position in string.gmatch(ARGV[at + 5], '%d+') do
    scopes[#scopes + 1] = tonumber(position)
    listed[#listed + 1] = names[tonumber(position)]
  end
  local verdict
  if string.sub(redis.call('GET', 'arq:in-progress:' .. id) or '', 1, 16) ~= token then
    verdict = 'lost'
  elseif redis.call('HEXISTS', P .. 'holds', token) == 1 then
    verdict = 'ok'
  elseif is_cancelled(flow) then
    verdict = 'cancelled'
  elseif shut[flow] then
    go_back(id, flow, score)
    verdict = shut[flow]
  elseif hold < 0 and limited(scopes) then
    verdict = 'unpriced'
  else
    hold = math.max(hold, 0)
    local blocked = obstacle(flow, hold, scopes)
    if blocked then
      go_back(id, flow, score)
      yield(flow, names[blocked])
      park(flow, names[blocked], hold)
      verdict = 'no_room ' .. names[blocked] .. ' ' .. int(hold)
      shut[flow] = verdict
    else
      for _, i in ipairs(scopes) do
        count(names[i], 'held', hold)
        if used[i] then used[i] = used[i] + hold end
        if starved[i] == flow then
          redis.call('DEL', P .. 'starved:' .. names[i])
          starved[i] = nil
        end
      end
      holds[#holds + 1] = token
      holds[#holds + 1] = int(hold) .. '\t' .. id .. '\t' .. flow .. '\t' .. table.concat(listed, '\t')
      verdict = 'ok'
    end
  end
  verdicts[#verdicts + 1] = verdict
end
if #holds > 0 then redis.call('HSET', P .. 'holds', unpack(holds)) end
flush()
return verdicts
