-- reset: zero what is spent in every scope; held and unconfirmed stay, for they are still owed, and windows stay too:
-- a day has cost what it has cost.
--
-- Returns {seq, nano-dollars that were spent in the scope global}
local spent = tonumber(redis.call('HGET', P .. 'scope:global', 'spent') or 0)
for _, scope in ipairs(redis.call('SMEMBERS', P .. 'scopes')) do
  redis.call('HDEL', P .. 'scope:' .. scope,
    'spent', 'overrun', 'calls', 'input_tokens', 'output_tokens', 'unpriced')
end
post('-', 'z', '', '', today, short(spent))
write_books()
return {seq, spent}
