-- cancel: nothing of the batch that is not sent yet will be sent. O(flows), whatever the number of jobs.
--
-- ARGV[4]  batch
-- ARGV[5]  "1" to end the calls that run too: what they cost stays unconfirmed; "" lets them finish
--
-- Returns {seq, 1 when it was cancelled now, 0 when it was before, or had ended: then it stays complete}
-- Errors: BATCHCLOSED when there is no such batch. Nothing is written then.
local batch = ARGV[4]
local record = redis.call('HMGET', P .. 'batch:' .. batch, 'created_ms', 'cancelled', 'sealed', 'total', 'succeeded',
  'failed', 'cancelled_jobs')
if not record[1] then return redis.error_reply('BATCHCLOSED unknown') end
local ended = (record[5] or 0) + (record[6] or 0) + (record[7] or 0)
if record[3] and not record[2] and ended >= tonumber(record[4]) then return {seq, 0} end
local first = redis.call('HSETNX', P .. 'batch:' .. batch, 'cancelled', now)
for _, flow in ipairs(redis.call('SMEMBERS', P .. 'flows:' .. batch)) do
  local _, _, lane = parts(flow)
  stop_waiting(flow)
  redis.call('ZREM', P .. 'open:' .. lane, flow)
  redis.call('ZREM', P .. 'wait:' .. lane, flow)
end
redis.call('SADD', P .. 'cancelled', batch)
if ARGV[5] == '1' then redis.call('HSETNX', P .. 'batch:' .. batch, 'aborted', now) end
redis.call('PUBLISH', P .. 'control', (ARGV[5] == '1' and 'abort ' or 'cancel ') .. batch)
return {seq, first}
