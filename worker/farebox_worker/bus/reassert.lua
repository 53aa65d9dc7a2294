-- reassert: put back what a worker knows of its attempts where the server has lost it, and extend their leases.
--
-- ARGV[4]  lease in ms
-- ARGV[5]  number of scopes, then their names
-- then per attempt (6): id, flow, token, hold in nano-dollars, "" while it runs or why its cost stays unknown,
--   positions of its scopes (from 1, by ",")
--
-- Returns {seq, positions (from 0) of the attempts that the server knew nothing of …}
-- Idempotent by token: what is held, unconfirmed, settled or released here moves no money. An attempt at a job that another,
-- admitted attempt runs is owed as unconfirmed at once: a lease has one owner, and its lapse must find every hold.
-- Who says so to the right ledger ("!" is not its epoch) has proved that writes are gone: the ledger is marked lost.
local ends, names, answer = int(now + tonumber(ARGV[4])), {}, {seq}
for i = 1, tonumber(ARGV[5]) do names[i] = ARGV[5 + i] end
local first = 6 + #names

local function is_settled(token)  -- or released by an operator
  local number, marks = string.sub(token, 13), redis.call('GET', P .. 'marks:' .. string.sub(token, 1, 12))
  return is_among(marks, number) or is_among(marks, 'r' .. number)
end

local function lease(id, flow, token)
  local _, batch, lane = parts(flow)
  redis.call('SET', 'arq:in-progress:' .. id, token .. flow)
  redis.call('ZADD', P .. 'leases:' .. lane, ends, id)
  redis.call('SADD', P .. 'lanes', lane)
  if redis.call('EXISTS', 'arq:job:' .. id) == 0 then return end
  if not redis.call('ZSCORE', flow, id) then  -- it was claimed again meanwhile, and set aside or moved
    for _, other in ipairs(redis.call('SMEMBERS', P .. 'flows:' .. batch)) do redis.call('ZREM', other, id) end
    take_in(flow, 'last')
  end
  redis.call('ZADD', flow, ends, id)
end

for at = first, #ARGV, 6 do
  local id, flow, token, hold, why = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4]
  local owner = string.sub(redis.call('GET', 'arq:in-progress:' .. id) or '', 1, 16)
  if redis.call('HEXISTS', P .. 'holds', token) == 1 then
    if why == '' and owner == token then lease(id, flow, token) end
  elseif redis.call('HEXISTS', P .. 'unconfirmed', token) == 0 and not is_settled(token) then
    local scopes = {}
    for position in string.gmatch(ARGV[at + 5], '%d+') do scopes[#scopes + 1] = names[tonumber(position)] end
    if why == '' and owner ~= token and redis.call('HEXISTS', P .. 'holds', owner) == 1 then why = 'superseded' end
    local set = table.concat(scopes, '\t')
    if why ~= '' then
      doubt(token, hold, id, flow, set, why)
      if owner == '' and redis.call('ZSCORE', flow, id) then  -- due by time: a claim looks for no doubts at the others
        redis.call('ZADD', flow, int(now), id)
        open(flow)
      end
    else
      count(set, 'held', hold)
      redis.call('HSET', P .. 'holds', token, table.concat({int(hold), id, flow, set}, '\t'))
      lease(id, flow, token)
    end
    answer[#answer + 1] = (at - first) / 6
  end
end
flush()
if #answer > 1 and ARGV[2] ~= '!' then redis.call('HSETNX', KEYS[1], 'lost', (#answer - 1) .. ' running calls were gone') end
return answer
