-- withdraw: forget jobs of a flow that wait and that nobody wants any more, as if they had never been submitted.
--
-- ARGV[4]  flow        ARGV[5]  batch       ARGV[6]  "anew" when other bodies take their ids, else ""
-- ARGV[7…] ids
--
-- Returns {seq, how many were withdrawn}
-- Jobs in flight, and finished ones, are left alone. No money moves: what is waiting holds none.
-- A call that nobody heard the end of may still be answered, and a late answer finishes the job of its id: such an id
-- is not given to another body.
local flow, batch, is_anew = ARGV[4], ARGV[5], ARGV[6] == 'anew'

local function may_go(id)
  if redis.call('EXISTS', 'arq:in-progress:' .. id) == 1 then return false end
  return not is_anew or redis.call('HEXISTS', P .. 'strikes', id .. ':doubts') == 0
end

local withdrawn = 0
for i = 7, #ARGV do
  local id = ARGV[i]
  if may_go(id) and redis.call('ZREM', flow, id) == 1 then
    redis.call('DEL', 'arq:job:' .. id, 'arq:retry:' .. id, P .. 'history:' .. id)
    redis.call('HDEL', P .. 'strikes', id .. ':doubts', id .. ':claims')
    redis.call('ZREM', P .. 'deadlines', batch .. '\t' .. id)
    redis.call('HDEL', P .. 'ids:' .. batch, string.sub(id, #P + 1))
    withdrawn = withdrawn + 1
  end
end
if withdrawn > 0 then
  redis.call('HINCRBY', P .. 'batch:' .. batch, 'submitted', -withdrawn)
  stop_waiting(flow)
  if redis.call('ZCARD', flow) > 0 then open(flow) end
end
return {seq, withdrawn}
