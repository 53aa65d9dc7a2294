-- book: count a call that was made outside the bus. It works without a ledger: the money is spent already.
--
-- KEYS[1]  <ns>:ledger
-- ARGV[1]  prefix "<ns>:"
-- ARGV[2]  cost in nano-dollars     ARGV[3]  input tokens     ARGV[4]  output tokens
-- ARGV[5…] scopes
--
-- Returns {seq, nano-dollars spent in the first scope}
local P = ARGV[1]
for i = 5, #ARGV do
  local scope = P .. 'scope:' .. ARGV[i]
  redis.call('HINCRBY', scope, 'spent', ARGV[2])
  redis.call('HINCRBY', scope, 'calls', 1)
  redis.call('HINCRBY', scope, 'input_tokens', ARGV[3])
  redis.call('HINCRBY', scope, 'output_tokens', ARGV[4])
  redis.call('SADD', P .. 'scopes', ARGV[i])
end
return {redis.call('HINCRBY', KEYS[1], 'seq', 1), tonumber(redis.call('HGET', P .. 'scope:' .. ARGV[5], 'spent'))}
