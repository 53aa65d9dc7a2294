-- lapse: end leases that ran out. Their holds become unconfirmed, their jobs are due again. Once a second, fleet-wide.
--
-- ARGV[4]  "1" to end all leases of the batch ARGV[5] (or of everything when it is ""): only when no process that
--          could hold one is alive; "" to end what ran out
-- ARGV[5]  batch or ""
--
-- Returns {seq, per lapsed attempt: id, hold in nano-dollars or "" when nothing was admitted}
-- It also looks after the parked, some of them each time: reopens what fits, and lets nothing smaller pass whoever waited
-- 30 s and still can fit, unless its lane is paused. And it forgets empty sidings of single jobs, for there may be many tags.
local LOOKED_AT = 100  -- parked flows, or as many as the server keeps in one piece
local force = ARGV[4] == '1'
local state = redis.call('HMGET', KEYS[1], 'lapsed', 'grace', 'looked')
local answer = {seq}
if not force then
  if state[1] and now >= tonumber(state[1]) and now - tonumber(state[1]) < 900 then return answer end
  redis.call('HSET', KEYS[1], 'lapsed', now)
end
local graceful = not force and state[2] and tonumber(state[2]) > now

local function lapse(lane, id)
  local running = redis.call('GET', 'arq:in-progress:' .. id) or ''
  local token, flow = string.sub(running, 1, 16), string.sub(running, 17)
  if flow ~= '' and ARGV[5] ~= '' then
    local _, batch = parts(flow)
    if batch ~= ARGV[5] then return end
  end
  redis.call('ZREM', P .. 'leases:' .. lane, id)
  redis.call('DEL', 'arq:in-progress:' .. id)
  local record = token ~= '' and redis.call('HGET', P .. 'holds', token)
  local held, unfinished = '', redis.call('EXISTS', 'arq:job:' .. id) == 1  -- a late answer may have finished it
  if record then
    local hold, set = read_hold(record)
    held = int(hold)
    redis.call('HDEL', P .. 'holds', token)
    count(set, 'held', -hold)
    doubt(token, hold, id, flow, set, 'worker died')
    if unfinished then
      redis.call('INCR', 'arq:retry:' .. id)
      local tried = {int(now), '', lane, 'lapsed', '', '', 'unconfirmed', held, '', 'its worker died, or was cut off'}
      redis.call('RPUSH', P .. 'history:' .. id, table.concat(tried, '\t'))
      redis.call('LTRIM', P .. 'history:' .. id, -20, -1)
    end
  else
    redis.call('HINCRBY', P .. 'strikes', id .. ':claims', 1)
  end
  if flow ~= '' and unfinished then
    redis.call('ZADD', flow, int(now), id)
    open(flow)
  end
  answer[#answer + 1], answer[#answer + 2] = id, held
end

if not graceful then
  for _, lane in ipairs(redis.call('SMEMBERS', P .. 'lanes')) do
    local expired = redis.call('ZRANGEBYSCORE', P .. 'leases:' .. lane, '-inf', force and '+inf' or int(now), 'LIMIT', 0, force and -1 or 500)
    for _, id in ipairs(expired) do lapse(lane, id) end
  end
end
flush()

local paused = {}

local function is_paused(flow)  -- its lane, or its provider: it can use no money, and keeps nobody from it
  local _, _, lane = parts(flow)
  if paused[lane] == nil then
    local until_ms = redis.call('HGET', P .. 'lane:' .. lane, 'paused_until')
    local shared = redis.call('HGET', P .. 'provider:' .. string.match(lane, '^[^:]*'), 'paused_until')
    paused[lane] = math.max(tonumber(until_ms or 0) or 0, tonumber(shared or 0) or 0) > now
  end
  return paused[lane]
end

local reach = {}  -- per limit: what could fit once everything in flight has cost nothing
local from = string.match(state[3] or '', '^%d+$') or '0'
local to, parking = unpack(redis.call('HSCAN', P .. 'parking', from, 'COUNT', LOOKED_AT))
if to ~= from then redis.call('HSET', KEYS[1], 'looked', to) end
for i = 1, #parking, 2 do  -- whoever waited 30 s and could still fit goes before smaller ones
  local flow = parking[i]
  local name, need, since = string.match(parking[i + 1], '^([^\t]*)\t(%d+)\t(%d+)')
  if not reach[name] then
    local free, held = room(name)
    reach[name] = free and free + held or math.huge
  end
  if redis.call('EXISTS', flow) == 0 then  -- its last job was answered late
    unpark(flow)
    need = math.huge
  end
  if tonumber(need) > reach[name] then
    if redis.call('GET', P .. 'starved:' .. name) == flow then redis.call('DEL', P .. 'starved:' .. name) end
  elseif reach[name] < math.huge and now - tonumber(since) > 30000 and not is_paused(flow) then
    redis.call('SET', P .. 'starved:' .. name, flow, 'NX', 'PX', 60000)
  end
end
for name in pairs(reach) do reopen(name) end

for _, flow in ipairs(redis.call('SRANDMEMBER', P .. 'flows:default', 20)) do  -- of the one batch that never ends
  if is_siding(flow) and redis.call('EXISTS', flow) == 0 then redis.call('SREM', P .. 'flows:default', flow) end
end
return answer
