-- reset: zero what is spent in every scope; held and unconfirmed stay, for they are still owed.
--
-- KEYS[1]  <ns>:ledger
-- ARGV[1]  prefix "<ns>:"
--
-- Returns {seq, nano-dollars that were spent in the scope global}
local P = ARGV[1]
local spent = tonumber(redis.call('HGET', P .. 'scope:global', 'spent') or 0)
for _, scope in ipairs(redis.call('SMEMBERS', P .. 'scopes')) do
  redis.call('HDEL', P .. 'scope:' .. scope,
    'spent', 'overrun', 'calls', 'input_tokens', 'output_tokens', 'unpriced')
end
return {redis.call('HINCRBY', KEYS[1], 'seq', 1), spent}
