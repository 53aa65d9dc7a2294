-- create: make the ledger if there is none. The one script that runs without a ledger.
--
-- KEYS[1]  <ns>:ledger
-- ARGV[1]  the epoch a new ledger gets
--
-- Returns {epoch, created (1 or 0)}
local created = redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1])
redis.call('HSETNX', KEYS[1], 'seq', 0)
return {redis.call('HGET', KEYS[1], 'epoch'), created}
