-- tune: say how many requests and tokens per minute lanes and providers allow.
--
-- ARGV[4…] per rate (4): of whom ("lane:<lane>" or "provider:<id>"), by ("set": configured, or "seen": in the provider's
--   headers), requests per minute, tokens per minute (0: none stated)
--
-- Returns {seq}
-- What is configured counts; the last one who says it is right. What was seen counts where nothing is configured.
for i = 4, #ARGV, 4 do
  local key, after = P .. ARGV[i], ARGV[i + 1] == 'seen' and '_seen' or ''
  for field, value in pairs({['rpm' .. after] = ARGV[i + 2], ['tpm' .. after] = ARGV[i + 3]}) do
    if tonumber(value) > 0 then redis.call('HSET', key, field, value) else redis.call('HDEL', key, field) end
  end
end
return {seq}
