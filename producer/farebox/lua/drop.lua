-- drop: finish jobs that wait as cancelled, at once; what is in flight is left to its worker.
--
-- ARGV[4]  batch       ARGV[5]  how long results are kept, in ms
-- ARGV[6…] per job (3): id, flow, result
--
-- Returns {seq, per job: 1 when it is cancelled now, 0 when it did not wait}
-- No money moves: what is waiting holds none.
local batch, kept_ms = ARGV[4], ARGV[5]
local answer, stream, flows = {seq}, {}, {}
for i = 6, #ARGV, 3 do
  local id, flow = ARGV[i], ARGV[i + 1]
  local waits = redis.call('EXISTS', 'arq:in-progress:' .. id) == 0 and redis.call('ZREM', flow, id) == 1
  if waits then
    redis.call('DEL', 'arq:job:' .. id, 'arq:retry:' .. id)
    redis.call('HDEL', P .. 'strikes', id .. ':doubts', id .. ':claims')
    redis.call('ZREM', P .. 'deadlines', batch .. '\t' .. id)
    redis.call('SET', 'arq:result:' .. id, ARGV[i + 2], 'PX', kept_ms)
    redis.call('PEXPIRE', P .. 'history:' .. id, kept_ms)
    stream[#stream + 1], stream[#stream + 2] = id, 'cancelled'
    flows[flow] = true
  end
  answer[#answer + 1] = waits and 1 or 0
end
if #stream > 0 then
  redis.call('HINCRBY', P .. 'batch:' .. batch, 'cancelled_jobs', #stream / 2)
  redis.call('XADD', P .. 'results:' .. batch, '*', unpack(stream))
end
for flow in pairs(flows) do
  stop_waiting(flow)
  if redis.call('ZCARD', flow) > 0 then open(flow) end
end
return answer
