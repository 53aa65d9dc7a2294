-- settle: turn holds into what the attempts really cost, and finish or reschedule their jobs.
--
-- ARGV[4]  how long results are kept, in ms
-- ARGV[5]  number of scopes, then their names
-- then per attempt (13): id, flow, token, action, money, amount in nano-dollars, input tokens, output tokens,
--   why (of unconfirmed money) or "", delay in ms or score to go back to, outcome or attempts so far, result, scope positions
--
-- action: "finish" (outcome succeeded|failed|cancelled), "retry" (after the delay; attempts are stored),
--   "return" (back to its place, as if it had never been claimed), "sweep" (finish a job that nobody runs)
-- money:  "actual" (book the amount), "release" (nothing was billed), "unconfirmed" (nobody knows: the hold stays owed),
--   "unpriced" (answered, at no known price)
-- outcome may carry the finish of an answer: "succeeded truncated"; " default_cap" when the cap was not the job's own.
--
-- Returns {seq, per attempt: "done" | "money" (only money moved: the attempt was stale) | "repeat"}
-- A mark kept for 10 minutes makes repeats harmless. A late settle replaces what was unconfirmed.
-- A late answer finishes its job; another attempt at it that is claimed but not admitted is lost then.
local names = {}
for i = 1, tonumber(ARGV[5]) do names[i] = ARGV[5 + i] end
local first = 6 + #names

local answer, batches, streams, marked = {seq}, {}, {}, {}
local gone_holds, gone_running, gone_retries, gone_strikes = {}, {}, {}, {}
local gone_flow, gone_lease = {}, {}

local function add(map, key, value)
  if not map[key] then map[key] = {} end
  map[key][#map[key] + 1] = value
end

local function batch_count(batch, field)
  if not batches[batch] then batches[batch] = {} end
  batches[batch][field] = (batches[batch][field] or 0) + 1
end

local function is_repeat(token)
  local mark = P .. 'settled:' .. string.sub(token, 1, 12)
  if redis.call('HSETNX', mark, string.sub(token, 13), 1) == 0 then return true end
  if not marked[mark] then
    redis.call('PEXPIRE', mark, 600000)
    marked[mark] = true
  end
  return false
end

local function move_money(id, flow, token, money, amount, tokens_in, tokens_out, why, positions)
  local hold, scopes, was = nil, nil, 'held'
  local record = redis.call('HGET', P .. 'holds', token)
  if record then
    local amount_held, _, _, listed = read_hold(record)
    hold, scopes = amount_held, listed
    gone_holds[#gone_holds + 1] = token
  else
    record = redis.call('HGET', P .. 'unconfirmed', token)
    if record and money == 'unconfirmed' then return end
    if record then
      was = 'unconfirmed'
      local owed, _, listed = read_doubt(record)
      hold, scopes = owed, listed
      redis.call('HDEL', P .. 'unconfirmed', token)
    else
      scopes = {}
      for position in string.gmatch(positions, '%d+') do scopes[#scopes + 1] = names[tonumber(position)] end
    end
  end
  for _, scope in ipairs(scopes) do
    if hold then count(scope, was, -hold) end
    if money == 'actual' or money == 'unpriced' then
      count(scope, 'spent', amount)
      count(scope, 'calls', 1)
      count(scope, 'input_tokens', tokens_in)
      count(scope, 'output_tokens', tokens_out)
      if money == 'unpriced' then count(scope, 'unpriced', 1) end
      if hold and amount > hold then count(scope, 'overrun', amount - hold) end
    end
  end
  if money == 'unconfirmed' and hold then doubt(token, hold, id, flow, scopes, why) end
end

local function finish(id, flow, outcome, result)  -- the job's payload is the proof that it has no answer yet
  if redis.call('DEL', 'arq:job:' .. id) == 0 then return false end
  local _, batch = parts(flow)
  add(gone_flow, flow, id)
  if result ~= '' then redis.call('SET', 'arq:result:' .. id, result, 'PX', ARGV[4]) end
  local ending = string.match(outcome, '^%S+')
  for word in string.gmatch(outcome, '%S+') do
    if word == 'cancelled' then batch_count(batch, 'cancelled_jobs')
    elseif word == 'default_cap' then batch_count(batch, 'capped_by_default')
    elseif word == 'succeeded' or word == 'failed' then batch_count(batch, word)
    else batch_count(batch, 'finish:' .. word) end
  end
  if not streams[batch] then streams[batch] = {} end
  local stream = streams[batch]
  stream[#stream + 1], stream[#stream + 2] = id, ending
  gone_retries[#gone_retries + 1] = 'arq:retry:' .. id
  gone_strikes[#gone_strikes + 1] = id .. ':doubts'
  gone_strikes[#gone_strikes + 1] = id .. ':claims'
  return true
end

local function forestall(id, lane)  -- a late answer came: whoever claimed the job again and did not send it yet, will not
  local other = string.sub(redis.call('GET', 'arq:in-progress:' .. id) or '', 1, 16)
  if other ~= '' and redis.call('HEXISTS', P .. 'holds', other) == 0 then
    gone_running[#gone_running + 1] = 'arq:in-progress:' .. id
    add(gone_lease, lane, id)
  end
end

local function put_back(id, flow, lane, action, due, attempts)
  if redis.call('EXISTS', 'arq:job:' .. id) == 0 then return end
  if action == 'retry' then
    redis.call('SET', 'arq:retry:' .. id, attempts)
    due = now + tonumber(due)
  end
  redis.call('ZADD', flow, int(due), id)
  if tonumber(due) <= now then open(flow) else later(flow, tonumber(due)) end
end

for at = first, #ARGV, 13 do
  local id, flow, token, action, money = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local due, outcome, result = ARGV[at + 9], ARGV[at + 10], ARGV[at + 11]
  local _, _, lane = parts(flow)
  local verdict = 'done'
  if action == 'sweep' then
    if redis.call('EXISTS', 'arq:in-progress:' .. id) == 1 or not finish(id, flow, outcome, result) then verdict = 'repeat' end
  elseif is_repeat(token) then
    verdict = 'repeat'
  else
    move_money(id, flow, token, money, tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7]),
      ARGV[at + 8], ARGV[at + 12])
    local mine = string.sub(redis.call('GET', 'arq:in-progress:' .. id) or '', 1, 16) == token
    if mine then
      gone_running[#gone_running + 1] = 'arq:in-progress:' .. id
      add(gone_lease, lane, id)
    end
    if action == 'finish' and (mine or string.find(outcome, '^succeeded')) then
      if not finish(id, flow, outcome, result) then verdict = 'money' elseif not mine then forestall(id, lane) end
    elseif mine and action ~= 'finish' then
      put_back(id, flow, lane, action, due, outcome)
    else
      verdict = 'money'
    end
  end
  answer[#answer + 1] = verdict
end

each(gone_holds, function(...) redis.call('HDEL', P .. 'holds', ...) end)
each(gone_running, function(...) redis.call('DEL', ...) end)
each(gone_retries, function(...) redis.call('DEL', ...) end)
if redis.call('EXISTS', P .. 'strikes') == 1 then
  each(gone_strikes, function(...) redis.call('HDEL', P .. 'strikes', ...) end)
end
for flow, ids in pairs(gone_flow) do each(ids, function(...) redis.call('ZREM', flow, ...) end) end
for lane, ids in pairs(gone_lease) do each(ids, function(...) redis.call('ZREM', P .. 'leases:' .. lane, ...) end) end
for batch, stream in pairs(streams) do each(stream, function(...) redis.call('XADD', P .. 'results:' .. batch, '*', ...) end) end

local function retain(batch, record)  -- the last job has ended: retention starts
  for _, kind in ipairs({'batch:', 'flows:', 'ids:', 'scope:batch:', 'limit:batch:'}) do
    redis.call('PEXPIRE', P .. kind .. batch, record[5])
  end
  redis.call('PEXPIRE', P .. 'results:' .. batch, record[6])
  for _, flow in ipairs(redis.call('SMEMBERS', P .. 'flows:' .. batch)) do
    local _, _, lane = parts(flow)
    redis.call('ZREM', P .. 'open:' .. lane, flow)
    redis.call('ZREM', P .. 'wait:' .. lane, flow)
  end
end

for batch, counts in pairs(batches) do
  local key = P .. 'batch:' .. batch
  for field, n in pairs(counts) do redis.call('HINCRBY', key, field, n) end
  local record = redis.call('HMGET', key, 'total', 'succeeded', 'failed', 'cancelled_jobs', 'ids_ttl', 'results_ttl')
  if record[1] and record[5]
    and tonumber(record[2] or 0) + tonumber(record[3] or 0) + tonumber(record[4] or 0) >= tonumber(record[1]) then
    retain(batch, record)
  end
end
flush()
return answer
