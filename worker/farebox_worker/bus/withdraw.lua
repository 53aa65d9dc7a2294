-- withdraw: forget jobs of a flow that wait and that nobody wants any more, as if they had never been submitted.
--
-- ARGV[4]  flow        ARGV[5]  batch
-- ARGV[6…] ids
--
-- Returns {seq, how many were withdrawn}
-- Jobs in flight, and finished ones, are left alone. No money moves: what is waiting holds none.
local flow, batch = ARGV[4], ARGV[5]
local withdrawn = 0
for i = 6, #ARGV do
  local id = ARGV[i]
  if redis.call('EXISTS', 'arq:in-progress:' .. id) == 0 and redis.call('ZREM', flow, id) == 1 then
    redis.call('DEL', 'arq:job:' .. id, 'arq:retry:' .. id, P .. 'history:' .. id)
    redis.call('HDEL', P .. 'strikes', id .. ':doubts', id .. ':claims')
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
