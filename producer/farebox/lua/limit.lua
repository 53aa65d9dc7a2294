-- limit: set or remove the limit of a scope, for good or per UTC day or month, and reopen what fits now.
--
-- ARGV[4]  the limit's name: its scope, or "day:" or "month:" and its scope
-- ARGV[5]  the limit in nano-dollars, or "" for none
--
-- Returns {seq, the limit before in nano-dollars or ""}
-- It is journaled, unless an ACL keeps the caller from the journal: producers, who limit batches of theirs.
local key = P .. 'limit:' .. ARGV[4]
local before = redis.call('GET', key) or ''
if ARGV[5] == '' then redis.call('DEL', key) else redis.call('SET', key, ARGV[5]) end
redis.call('SADD', P .. 'scopes', (parts_of_limit(ARGV[4])))
local may_post = not redis.acl_check_cmd or redis.acl_check_cmd('XADD', P .. 'journal', '*', 'n', '0')
if may_post then post('-', 'm', '', '', today, '', '\t\t\t\t\t\t' .. ARGV[4] .. '\t' .. before .. '\t' .. ARGV[5]) end
flush()
reopen(ARGV[4])
redis.call('PUBLISH', P .. 'control', 'limit ' .. ARGV[4])
return {seq, before}
