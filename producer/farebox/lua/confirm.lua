-- confirm: an operator says what attempts of unknown outcome really cost: nothing, or all that was held.
--
-- ARGV[4]  "release" (it was not billed) or "charge" (it was, at its worst case)
-- ARGV[5…] attempt tokens
--
-- Returns {seq, how many were known, their nano-dollars}
-- A charged attempt is marked as settled for 10 minutes: a late settle must not book it again.
local known, total = 0, 0
for i = 5, #ARGV do
  local record = redis.call('HGET', P .. 'unconfirmed', ARGV[i])
  if record then
    local amount, _, scopes = read_doubt(record)
    known, total = known + 1, total + amount
    redis.call('HDEL', P .. 'unconfirmed', ARGV[i])
    if ARGV[4] == 'charge' then
      local mark = P .. 'settled:' .. string.sub(ARGV[i], 1, 12)
      redis.call('HSET', mark, string.sub(ARGV[i], 13), 1)
      redis.call('PEXPIRE', mark, 600000)
    end
    for _, scope in ipairs(scopes) do
      count(scope, 'unconfirmed', -amount)
      if ARGV[4] == 'charge' then count(scope, 'spent', amount) end
    end
  end
end
flush()
return {seq, known, int(total)}
