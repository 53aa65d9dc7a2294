-- acknowledge: forget failures that are kept safe elsewhere, but none that a retry has replaced meanwhile.
--
-- ARGV[1]  prefix "<ns>:"
-- ARGV[2…] per job (2): id, the result as it was read
--
-- Returns {how many were forgotten}
local forgotten = 0
for i = 2, #ARGV, 2 do
  if redis.call('GET', 'arq:result:' .. ARGV[i]) == ARGV[i + 1] then
    redis.call('UNLINK', 'arq:result:' .. ARGV[i], ARGV[1] .. 'history:' .. ARGV[i])
    forgotten = forgotten + 1
  end
end
return {forgotten}
