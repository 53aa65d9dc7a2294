-- retry: put jobs that failed back into their flows, at the end; that they failed is forgotten.
--
-- ARGV[4]  batch
-- ARGV[5…] per job (5): id, flow, deadline in ms (0 = none), the result it ended with, payload
--
-- Returns {seq, how many went back}
-- Errors: BATCHCLOSED. Nothing is written then.
-- A job that has another result by now, or none, is passed over: somebody else retried or collected it. A sealed batch
-- stays sealed, for its total is the same.
local batch, back = ARGV[4], 0
local record = redis.call('HMGET', P .. 'batch:' .. batch, 'created_ms', 'cancelled')
if not record[1] then return redis.error_reply('BATCHCLOSED unknown') end
if record[2] then return redis.error_reply('BATCHCLOSED cancelled') end
for i = 5, #ARGV, 5 do
  local id, flow, deadline = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if redis.call('GET', 'arq:result:' .. id) == ARGV[i + 3] then
    redis.call('UNLINK', 'arq:result:' .. id)
    redis.call('PERSIST', P .. 'history:' .. id)
    redis.call('MSET', 'arq:job:' .. id, ARGV[i + 4])
    if deadline ~= '0' then redis.call('ZADD', P .. 'deadlines', deadline, batch .. '\t' .. id) end
    redis.call('ZADD', flow, int(redis.call('HINCRBY', KEYS[1], 'jobs', 1)), id)
    redis.call('SADD', P .. 'flows:' .. batch, flow)
    open(flow)
    back = back + 1
  end
end
if back > 0 then redis.call('HINCRBY', P .. 'batch:' .. batch, 'failed', -back) end
return {seq, back}
