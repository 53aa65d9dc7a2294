-- confirm: an operator says what attempts of unknown outcome really cost: nothing, or all that was held.
--
-- ARGV[4]  "release" (it was not billed) or "charge" (it was, at its worst case)
-- ARGV[5…] attempt tokens
--
-- Returns {seq, how many were known, their nano-dollars}
-- A charged attempt is marked as settled for a day: a late settle must not book it again. A released one, whose call may
-- still be answered, is marked with "r" before its digits, for `reassert`. The money moves in the windows of the day since
-- which it was owed.
local is_charge = ARGV[4] == 'charge'
local known, total = 0, 0
for i = 5, #ARGV do
  local record = redis.call('HGET', P .. 'unconfirmed', ARGV[i])
  if record then
    local amount, id, set, day = read_doubt(record)
    known, total = known + 1, total + amount
    redis.call('HDEL', P .. 'unconfirmed', ARGV[i])
    count(set, 'unconfirmed', -amount, day)
    post(ARGV[i], is_charge and 'c' or 'r', id, set, day, short(amount))
    if is_charge then count(set, 'spent', amount, day) end
    mark(string.sub(ARGV[i], 1, 12), (is_charge and '' or 'r') .. string.sub(ARGV[i], 13), 86400000)
  end
end
flush()
return {seq, known, int(total)}
