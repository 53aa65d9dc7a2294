-- reopen: a cancelled batch goes on, and what waits in it may be claimed again. O(flows), whatever the number of jobs.
--
-- ARGV[4]  batch
--
-- Returns {seq, 1 when it was cancelled, else 0}
-- What was written down as cancelled meanwhile stays so.
local batch = ARGV[4]
if redis.call('HEXISTS', P .. 'batch:' .. batch, 'cancelled') == 0 then return {seq, 0} end
redis.call('SREM', P .. 'cancelled', batch)
redis.call('HDEL', P .. 'batch:' .. batch, 'cancelled', 'aborted')
for _, flow in ipairs(redis.call('SMEMBERS', P .. 'flows:' .. batch)) do
  if redis.call('ZCARD', flow) > 0 then open(flow) end
end
return {seq, 1}
