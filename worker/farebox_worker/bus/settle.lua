-- settle: turn holds into what the attempts really cost, and finish or reschedule their jobs.
--
-- ARGV[4]  how long results are kept, in ms
-- ARGV[5]  number of scopes, then their names
-- then per attempt (16): id, flow, token, action, money, amount in nano-dollars, input tokens, output tokens,
--   why (of unconfirmed money) or "", delay in ms or score to go back to, outcome or attempts so far, result, scope positions,
--   note for the journal, what the job's history keeps of it (see keys.py) or "", what its lane felt (see felt.lua) or ""
--
-- action: "finish" (outcome succeeded|failed|cancelled), "retry" (after the delay; attempts are stored),
--   "return" (back to its place, as if it had never been claimed), "sweep" (finish a job that nobody runs),
--   "move" (it failed here, and another lane may answer it: due there after the delay, its attempts anew; the result is
--   its new payload, the outcome the word movable, spread or last, and that lane)
-- money:  "actual" (book the amount), "release" (nothing was billed), "unconfirmed" (nobody knows: the hold stays owed),
--   "unpriced" (answered, at no known price)
-- outcome may carry the finish of an answer: "succeeded truncated"; " default_cap" when the cap was not the job's own.
--
-- Returns {seq, per attempt: "done" | "money" (only money moved: the attempt was stale) | "repeat"}
-- A mark kept for 10 minutes makes repeats harmless. A late settle replaces what was unconfirmed, in the windows of the
-- day since which it was owed. All money is booked and journaled first; what fails after that can be sent again, for a
-- repeat whose attempt still runs finishes its job.
-- A late answer finishes its job; another attempt at it that is claimed but not admitted is lost then, and a flow that
-- parked for it is tried again.
local names = {}
for i = 1, tonumber(ARGV[5]) do names[i] = ARGV[5 + i] end
local first = 6 + #names

local answer, batches, streams = {seq}, {}, {}
local finished, gone_keys, gone_strikes = {}, {}, {}
local gone_flow, gone_lease, gone_deadlines = {}, {}, {}
local histories = {}

local function add(map, key, value)
  local list = map[key]
  if not list then
    list = {}
    map[key] = list
  end
  list[#list + 1] = value
end

local function read_marks()  -- the tokens of the group that were settled before
  local asked, known = {}, {}
  for at = first, #ARGV, 16 do add(asked, string.sub(ARGV[at + 2], 1, 12), string.sub(ARGV[at + 2], 13)) end
  for claim, fields in pairs(asked) do
    for i, mark in ipairs(redis.call('HMGET', P .. 'settled:' .. claim, unpack(fields))) do
      known[claim .. fields[i]] = mark
    end
  end
  return known
end

local settled, marks = read_marks(), {}

local function is_repeat(token)
  if settled[token] then return true end
  settled[token] = true
  local claim = string.sub(token, 1, 12)
  add(marks, claim, string.sub(token, 13))
  add(marks, claim, 1)
  return false
end

local function write_marks()
  for claim, fields in pairs(marks) do
    redis.call('HSET', P .. 'settled:' .. claim, unpack(fields))
    if redis.call('PTTL', P .. 'settled:' .. claim) < 600000 then  -- not shorter than `confirm` says
      redis.call('PEXPIRE', P .. 'settled:' .. claim, 600000)
    end
  end
end

local sets = {}

local function set_at(positions)
  if not sets[positions] then
    local listed = {}
    for position in string.gmatch(positions, '%d+') do listed[#listed + 1] = names[tonumber(position)] end
    sets[positions] = table.concat(listed, '\t')
  end
  return sets[positions]
end

local function read_running()  -- per job of the group: the token of the attempt that runs
  local ids, keys, tokens = {}, {}, {}
  for at = first, #ARGV, 16 do
    ids[#ids + 1], keys[#keys + 1] = ARGV[at], 'arq:in-progress:' .. ARGV[at]
  end
  for i, value in ipairs(#keys > 0 and redis.call('MGET', unpack(keys)) or {}) do
    tokens[ids[i]] = string.sub(value or '', 1, 16)
  end
  return tokens
end

local function read_holds()
  local tokens, records = {}, {}
  for at = first, #ARGV, 16 do tokens[#tokens + 1] = ARGV[at + 2] end
  for i, record in ipairs(#tokens > 0 and redis.call('HMGET', P .. 'holds', unpack(tokens)) or {}) do
    records[tokens[i]] = record
  end
  return records
end

local running, holds, gone_holds, gone_doubts = read_running(), read_holds(), {}, {}

local function book(token, kind, id, set, day, hold, at)  -- the attempt was answered
  local money, amount = ARGV[at + 4], tonumber(ARGV[at + 5])
  if hold == 0 and money == 'unpriced' then hold = nil end  -- nobody said that it would cost nothing
  local tokens_in, tokens_out = ARGV[at + 6], ARGV[at + 7]
  count(set, 'spent', amount, day)
  count(set, 'calls', 1)
  count(set, 'input_tokens', tonumber(tokens_in))
  count(set, 'output_tokens', tonumber(tokens_out))
  if money == 'unpriced' then count(set, 'unpriced', 1) end
  if hold and amount > hold then count(set, 'overrun', amount - hold) end
  post(token, kind, id, set, day, amount, hold and int(hold) or '',
    tokens_in ~= '0' and tokens_in or '', tokens_out ~= '0' and tokens_out or '', '1',
    money == 'unpriced' and '1' or '', ARGV[at + 13])
end

local function move_money(id, flow, token, at)
  local money = ARGV[at + 4]
  local answered = money == 'actual' or money == 'unpriced'
  if holds[token] then
    local hold, set = read_hold(holds[token])
    gone_holds[#gone_holds + 1] = token
    count(set, 'held', -hold)
    if answered then
      book(token, 's', id, set, today, hold, at)
    elseif money == 'unconfirmed' then
      doubt(token, hold, id, flow, set, ARGV[at + 8])
    end
    return
  end
  local record = redis.call('HGET', P .. 'unconfirmed', token)
  if not record then
    if answered then book(token, 's', id, set_at(ARGV[at + 12]), today, nil, at) end
  elseif money ~= 'unconfirmed' then
    local owed, _, set, day = read_doubt(record)
    gone_doubts[#gone_doubts + 1] = token
    count(set, 'unconfirmed', -owed, day)
    if answered then
      book(token, 'l', id, set, day, owed, at)
    else
      post(token, 'l', id, set, day, 0, int(owed))
    end
  end
end

local function are_all_open()  -- one question for the group, for most are
  local keys, open = {}, 0
  for at = first, #ARGV, 16 do keys[#keys + 1] = 'arq:job:' .. ARGV[at] end
  each(keys, function(...) open = open + redis.call('EXISTS', ...) end)
  return open == #keys
end

local all_open = are_all_open()

local function is_open(id)  -- the job's payload is the proof that it has no answer yet
  return not finished[id] and (all_open or redis.call('EXISTS', 'arq:job:' .. id) == 1)
end

local COUNTED = {cancelled = 'cancelled_jobs', default_cap = 'capped_by_default', succeeded = 'succeeded', failed = 'failed'}
local endings = {}  -- by outcome: its first word, and the counters of the batch that it adds to

local function ending_of(outcome)
  local known = endings[outcome]
  if not known then
    known = {string.match(outcome, '^%S+'), {}}
    for word in string.gmatch(outcome, '%S+') do add(known, 2, COUNTED[word] or 'finish:' .. word) end
    endings[outcome] = known
  end
  return known[1], known[2]
end

local has_strikes = nil  -- known when the money is booked

local function finish(id, flow, outcome, result)
  if not is_open(id) then return false end
  local _, batch = parts(flow)
  finished[id] = true
  add(gone_flow, flow, id)
  if result ~= '' then redis.call('SET', 'arq:result:' .. id, result, 'PX', ARGV[4]) end
  local ending, counters = ending_of(outcome)
  for _, counter in ipairs(counters) do bump(batches, batch, counter, 1) end
  add(streams, batch, id)
  add(streams, batch, ending)
  gone_keys[#gone_keys + 1] = 'arq:job:' .. id
  gone_keys[#gone_keys + 1] = 'arq:retry:' .. id
  if has_strikes then
    gone_strikes[#gone_strikes + 1] = id .. ':doubts'
    gone_strikes[#gone_strikes + 1] = id .. ':claims'
  end
  histories[#histories + 1] = P .. 'history:' .. id
  gone_deadlines[#gone_deadlines + 1] = batch .. '\t' .. id
  return true
end

local function place_of(id, flow)  -- where a job is now: it may have moved since the attempt began
  if running[id] ~= '' then return string.sub(redis.call('GET', 'arq:in-progress:' .. id), 17) end
  if redis.call('ZSCORE', flow, id) then return flow end
  local _, batch = parts(flow)
  for _, other in ipairs(redis.call('SMEMBERS', P .. 'flows:' .. batch)) do
    if redis.call('ZSCORE', other, id) then return other end
  end
  return flow
end

local function forestall(id, flow, lane)  -- a late answer came: whoever claimed the job again and did not send it yet, will not
  if stop_waiting(flow) then open(flow) end
  local other = running[id]
  if other ~= '' and redis.call('HEXISTS', P .. 'holds', other) == 0 then
    gone_keys[#gone_keys + 1] = 'arq:in-progress:' .. id
    add(gone_lease, lane, id)
  end
end

local function put_back(id, flow, lane, action, due, attempts)
  if not is_open(id) then return end
  if action == 'retry' then
    redis.call('SET', 'arq:retry:' .. id, attempts)
    due = now + tonumber(due)
  end
  redis.call('ZADD', flow, int(due), id)
  if tonumber(due) <= now then open(flow) else later(flow, tonumber(due)) end
end

local function remember(id, tried)  -- the last 20 attempts of a job that has no answer yet
  if tried == '' or not is_open(id) then return end
  redis.call('RPUSH', P .. 'history:' .. id, int(now) .. '\t' .. tried)
  redis.call('LTRIM', P .. 'history:' .. id, -20, -1)
end

local function move(id, flow, target, due, payload)
  if not is_open(id) then return end
  local kind, lane = string.match(target, '^(%a+) (.+)$')
  local priority, batch = parts(flow)
  local goal = P .. 'flow:' .. priority .. ':' .. batch .. ':' .. lane
  redis.call('SET', 'arq:job:' .. id, payload)
  redis.call('DEL', 'arq:retry:' .. id)
  redis.call('ZREM', flow, id)
  redis.call('ZADD', goal, int(now + tonumber(due)), id)
  take_in(goal, kind)
  if redis.call('HEXISTS', P .. 'batch:' .. batch, 'cancelled') == 1 then  -- whoever sweeps must look again
    redis.call('SADD', P .. 'cancelled', batch)
  end
  if tonumber(due) <= 0 then open(goal) else later(goal, now + tonumber(due)) end
end

local repeats = {}
for at = first, #ARGV, 16 do
  if ARGV[at + 3] ~= 'sweep' then
    repeats[at] = is_repeat(ARGV[at + 2])
    if not repeats[at] then
      move_money(ARGV[at], ARGV[at + 1], ARGV[at + 2], at)
      local _, _, lane = parts(ARGV[at + 1])
      feel(lane, ARGV[at + 2], ARGV[at + 3] == 'finish' and string.find(ARGV[at + 10], '^succeeded') ~= nil, ARGV[at + 15])
    end
  end
end
apply_felts()
has_strikes = redis.call('EXISTS', P .. 'strikes') == 1
write_marks()  -- not before: what fails until here has written nothing, and may be sent again
each(gone_holds, function(...) redis.call('HDEL', P .. 'holds', ...) end)
each(gone_doubts, function(...) redis.call('HDEL', P .. 'unconfirmed', ...) end)
flush()

for at = first, #ARGV, 16 do
  local id, flow, token, action = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local due, outcome, result = ARGV[at + 9], ARGV[at + 10], ARGV[at + 11]
  local _, _, lane = parts(flow)
  local mine = running[id] == token
  local verdict = 'done'
  if action == 'sweep' then
    if running[id] ~= '' or not finish(id, place_of(id, flow), outcome, result) then
      verdict = 'repeat'
    elseif stop_waiting(flow) then  -- it may have been the one that the flow parked for
      open(flow)
    end
  elseif repeats[at] and not mine then
    verdict = 'repeat'
  else
    if mine then
      gone_keys[#gone_keys + 1] = 'arq:in-progress:' .. id
      add(gone_lease, lane, id)
      running[id] = ''
    end
    if not repeats[at] then remember(id, ARGV[at + 14]) end
    if action == 'finish' and (mine or string.find(outcome, '^succeeded')) then
      local place = mine and flow or place_of(id, flow)
      local _, _, now_in = parts(place)
      if not finish(id, place, outcome, result) then verdict = 'money' elseif not mine then forestall(id, place, now_in) end
    elseif mine and action == 'move' then
      move(id, flow, outcome, due, result)
    elseif mine and action ~= 'finish' then
      put_back(id, flow, lane, action, due, outcome)
    else
      verdict = 'money'
    end
  end
  answer[#answer + 1] = verdict
end

for batch, stream in pairs(streams) do each(stream, function(...) redis.call('XADD', P .. 'results:' .. batch, '*', ...) end) end
each(gone_keys, function(...) redis.call('DEL', ...) end)
each(histories, function(...)
  if redis.call('EXISTS', ...) == 0 then return end  -- one question, for most jobs have none
  for _, key in ipairs({...}) do redis.call('PEXPIRE', key, ARGV[4]) end
end)
if redis.call('EXISTS', P .. 'deadlines') == 1 then
  each(gone_deadlines, function(...) redis.call('ZREM', P .. 'deadlines', ...) end)
end
each(gone_strikes, function(...) redis.call('HDEL', P .. 'strikes', ...) end)
for flow, ids in pairs(gone_flow) do each(ids, function(...) redis.call('ZREM', flow, ...) end) end
for lane, ids in pairs(gone_lease) do each(ids, function(...) redis.call('ZREM', P .. 'leases:' .. lane, ...) end) end

local function retain(batch, record)  -- the last job has ended: retention starts
  local kept = {'batch:', 'flows:', 'ids:', 'limit:batch:', 'limit:day:batch:', 'limit:month:batch:'}
  if tonumber(redis.call('HGET', P .. 'scope:batch:' .. batch, 'unconfirmed') or 0) == 0 then
    kept[#kept + 1] = 'scope:batch:'
  end
  for _, kind in ipairs(kept) do redis.call('PEXPIRE', P .. kind .. batch, record[5]) end
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
return answer
