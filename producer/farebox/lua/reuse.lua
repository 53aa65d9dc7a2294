-- reuse: finish a chunk of jobs with answers that identical ones had, all or nothing. Ids that exist are skipped and reported.
--
-- ARGV[4]  batch       ARGV[5]  how long results are kept, in ms
-- ARGV[6…] per job (4): id, body digest, finish of the answer, result
--
-- Returns {seq, created, positions of existing ids (from 0) …}
-- Errors: BATCHCLOSED, CONFLICT <ids>. Nothing is written then.
-- No money moves: nothing is sent, and the answer was paid when it was made.
local batch, kept_ms = ARGV[4], ARGV[5]
local record = redis.call('HMGET', P .. 'batch:' .. batch, 'created_ms', 'sealed', 'cancelled')
if not record[1] then return redis.error_reply('BATCHCLOSED unknown') end

local digests = {}
for i = 6, #ARGV, 4 do digests[#digests + 1] = string.sub(ARGV[i], #P + 1) end
local known = redis.call('HMGET', P .. 'ids:' .. batch, unpack(digests))

local fresh, existing, conflicts, seen = {}, {}, {}, {}
for i = 6, #ARGV, 4 do
  local n = (i - 2) / 4
  local was = known[n] or seen[digests[n]]
  if not was then
    fresh[#fresh + 1] = i
    seen[digests[n]] = ARGV[i + 1]
  elseif was == ARGV[i + 1] then
    existing[#existing + 1] = n - 1
  else
    conflicts[#conflicts + 1] = ARGV[i]
  end
end
if #conflicts > 0 then return redis.error_reply('CONFLICT ' .. table.concat(conflicts, ' ')) end
if #fresh > 0 then
  if record[3] then return redis.error_reply('BATCHCLOSED cancelled') end
  if record[2] then return redis.error_reply('BATCHCLOSED sealed') end
  local counts, ids, stream = {submitted = #fresh, succeeded = #fresh, reused = #fresh}, {}, {}
  for n, i in ipairs(fresh) do
    redis.call('SET', 'arq:result:' .. ARGV[i], ARGV[i + 3], 'PX', kept_ms)
    ids[2 * n - 1], ids[2 * n] = string.sub(ARGV[i], #P + 1), ARGV[i + 1]
    stream[2 * n - 1], stream[2 * n] = ARGV[i], 'succeeded'
    local finish = 'finish:' .. ARGV[i + 2]
    counts[finish] = (counts[finish] or 0) + 1
  end
  redis.call('HSET', P .. 'ids:' .. batch, unpack(ids))
  for field, n in pairs(counts) do redis.call('HINCRBY', P .. 'batch:' .. batch, field, n) end
  redis.call('XADD', P .. 'results:' .. batch, '*', unpack(stream))
end
return {seq, #fresh, unpack(existing)}
