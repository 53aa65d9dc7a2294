-- adopt: an operator goes on with what the server holds now. Whoever knew the ledger by its old epoch stops.
--
-- KEYS[1]  <ns>:ledger
-- ARGV[1]  the epoch the operator has looked at, "" when there was none
-- ARGV[2]  the epoch it gets
--
-- Returns {1, or 0 when another epoch is there by now: then nothing is written}
-- Nothing lapses for one lease more: who still runs calls has that long to come and reassert them.
local before = redis.call('HMGET', KEYS[1], 'epoch', 'lease')
if (before[1] or '') ~= ARGV[1] then return {0} end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('HDEL', KEYS[1], 'lost')
redis.call('HINCRBY', KEYS[1], 'seq', 1)
redis.call('HSET', KEYS[1], 'epoch', ARGV[2],
  'clock', string.format('%.0f', now), 'grace', string.format('%.0f', now + tonumber(before[2] or 30000)))
return {1}
