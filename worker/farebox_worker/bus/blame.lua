-- blame: count a request that its provider refused as wrong, against its lane, over the whole fleet.
--
-- ARGV[4]  lane        ARGV[5]  the scope that counts its answers, "model:<model_ref>"
-- ARGV[6]  what was wrong, without what differs from line to line
-- ARGV[7]  how many alike, one after the other, are too many
--
-- Returns {seq, how many there were in a row, this one included; 0 while the lane is paused}
-- An answer in between begins anew, and costs nothing: the scope has counted it. So do too many, after they were told of.
local key, what, most = P .. 'lane:' .. ARGV[4], ARGV[6], tonumber(ARGV[7])
local before = redis.call('HMGET', key, 'alike_what', 'alike_count', 'alike_calls', 'paused_until')
if (tonumber(before[4] or 0) or 0) > now then return {seq, 0} end
local calls = redis.call('HGET', P .. 'scope:' .. ARGV[5], 'calls') or '0'
local count = 1
if before[1] == what and before[3] == calls then count = (tonumber(before[2] or 0) or 0) + 1 end
if count >= most then
  redis.call('HDEL', key, 'alike_what', 'alike_count', 'alike_calls')
else
  redis.call('HSET', key, 'alike_what', what, 'alike_count', count, 'alike_calls', calls)
end
return {seq, count}
