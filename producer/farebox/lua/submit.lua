-- submit: put a chunk of jobs into one flow, all or nothing. Ids that exist are skipped and reported.
--
-- ARGV[4]  flow        ARGV[5]  batch       ARGV[6]  lane
-- ARGV[7…] per job: id, body digest, due time in ms (0 = now), deadline in ms (0 = none), payload
--
-- Returns {seq, created, positions of existing ids (from 0) …}
-- Errors: BATCHCLOSED, CONFLICT <ids>. Nothing is written then.
local flow, batch, lane = ARGV[4], ARGV[5], ARGV[6]
local record = redis.call('HMGET', P .. 'batch:' .. batch, 'created_ms', 'sealed', 'cancelled')
if not record[1] then return redis.error_reply('BATCHCLOSED unknown') end

local jobs = (#ARGV - 6) / 5
local digests = {}
for i = 1, jobs do digests[i] = string.sub(ARGV[2 + 5 * i], #P + 1) end
local known = redis.call('HMGET', P .. 'ids:' .. batch, unpack(digests))

local fresh, existing, conflicts, seen = {}, {}, {}, {}
for i = 1, jobs do
  local was = known[i] or seen[digests[i]]
  if not was then
    fresh[#fresh + 1] = i
    seen[digests[i]] = ARGV[3 + 5 * i]
  elseif was == ARGV[3 + 5 * i] then
    existing[#existing + 1] = i - 1
  else
    conflicts[#conflicts + 1] = ARGV[2 + 5 * i]
  end
end
if #conflicts > 0 then return redis.error_reply('CONFLICT ' .. table.concat(conflicts, ' ')) end
if #fresh > 0 then
  if record[3] then return redis.error_reply('BATCHCLOSED cancelled') end
  if record[2] then return redis.error_reply('BATCHCLOSED sealed') end
  local last = redis.call('HINCRBY', KEYS[1], 'jobs', #fresh)
  local payloads, scores, ids, deadlines, soonest = {}, {}, {}, {}, nil
  for n, i in ipairs(fresh) do
    local id, due, deadline = ARGV[2 + 5 * i], tonumber(ARGV[4 + 5 * i]), ARGV[5 + 5 * i]
    local waits = due > now
    payloads[2 * n - 1], payloads[2 * n] = 'arq:job:' .. id, ARGV[6 + 5 * i]
    scores[2 * n - 1], scores[2 * n] = int(waits and due or last - #fresh + n), id
    ids[2 * n - 1], ids[2 * n] = digests[i], ARGV[3 + 5 * i]
    if deadline ~= '0' then
      local at = #deadlines
      deadlines[at + 1], deadlines[at + 2] = deadline, batch .. '\t' .. id
    end
    if waits and (not soonest or due < soonest) then soonest = due end
  end
  redis.call('MSET', unpack(payloads))
  redis.call('ZADD', flow, unpack(scores))
  if #deadlines > 0 then redis.call('ZADD', P .. 'deadlines', unpack(deadlines)) end
  redis.call('HSET', P .. 'ids:' .. batch, unpack(ids))
  redis.call('HINCRBY', P .. 'batch:' .. batch, 'submitted', #fresh)
  redis.call('SADD', P .. 'flows:' .. batch, flow)
  if redis.call('SADD', P .. 'lanes', lane) == 1 then redis.call('PUBLISH', P .. 'control', 'lane ' .. lane) end
  if soonest then later(flow, soonest) end
  open(flow)
end
return {seq, #fresh, unpack(existing)}
