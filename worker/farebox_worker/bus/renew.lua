-- renew: extend the leases of everything a process runs.
--
-- ARGV[4]  lease in ms
-- ARGV[5…] per attempt: id, flow, token
--
-- Returns {seq, positions (from 0) of attempts that are no longer the caller's …}
local ends = int(now + tonumber(ARGV[4]))
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[4] then redis.call('HSET', KEYS[1], 'lease', ARGV[4]) end
local answer = {seq}
for i = 5, #ARGV, 3 do
  local id, flow, token = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if string.sub(redis.call('GET', 'arq:in-progress:' .. id) or '', 1, 16) == token then
    local _, _, lane = parts(flow)
    redis.call('ZADD', P .. 'leases:' .. lane, 'XX', ends, id)
    redis.call('ZADD', flow, 'XX', ends, id)
  else
    answer[#answer + 1] = (i - 5) / 3
  end
end
return answer
