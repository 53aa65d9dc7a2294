-- book: count money that was spent outside the bus. It works without a ledger: the money is spent already.
--
-- ARGV[4]  cost in nano-dollars     ARGV[5]  input tokens     ARGV[6]  output tokens     ARGV[7]  calls
-- ARGV[8…] scopes
--
-- Returns {seq, nano-dollars spent in the first scope}
local set = table.concat(ARGV, '\t', 8)
local cost, tokens_in, tokens_out, calls = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
count(set, 'spent', cost)
count(set, 'calls', calls)
count(set, 'input_tokens', tokens_in)
count(set, 'output_tokens', tokens_out)
post('-', 'b', '', set, today, short(cost), '\t\t' .. short(tokens_in) .. '\t' .. short(tokens_out) .. '\t' .. short(calls))
write_books()
local spent = redis.call('HGET', P .. 'scope:' .. ARGV[8], 'spent')
return {seq, tonumber(spent or 0)}
