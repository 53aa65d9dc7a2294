-- limit: set or remove the limit of a scope, and reopen what fits now.
--
-- ARGV[4]  scope
-- ARGV[5]  the limit in nano-dollars, or "" for none
--
-- Returns {seq, the limit before in nano-dollars or ""}
local key = P .. 'limit:' .. ARGV[4]
local before = redis.call('GET', key) or ''
if ARGV[5] == '' then redis.call('DEL', key) else redis.call('SET', key, ARGV[5]) end
redis.call('SADD', P .. 'scopes', ARGV[4])
reopen(ARGV[4])
redis.call('PUBLISH', P .. 'control', 'limit ' .. ARGV[4])
return {seq, before}
