-- settle: turn holds into what the attempts really cost, and finish or reschedule their jobs.
--
-- ARGV[4]  how long results are kept, in ms
-- ARGV[5]  number of scopes     ARGV[6]  number of manners; then the names of the scopes
-- then per manner, which is what many attempts of a group share, 9: flow, action, money, why (of unconfirmed money) or "",
--   delay in ms or score to go back to, outcome or attempts so far, scope positions (from 1, by ","), what the job's history
--   keeps of it (see keys.py) or "", "1" when no attempt at the job was counted before
-- then per attempt (9): id, token, number of its manner, amount in nano-dollars, input tokens, output tokens, result,
--   note for the journal, what its lane felt (see felt.lua) or ""
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
local names, manners, streams, gone_lease = {}, {}, {}, {}  -- streams by batch, leases by lane
for i = 1, tonumber(ARGV[5]) do names[i] = ARGV[6 + i] end

local function set_at(positions)
  local listed = {}
  for position in string.gmatch(positions, '%d+') do listed[#listed + 1] = names[tonumber(position)] end
  return table.concat(listed, '\t')
end

local first = 7 + #names
for n = 1, tonumber(ARGV[6]) do
  local flow, action, money, outcome = ARGV[first], ARGV[first + 1], ARGV[first + 2], ARGV[first + 5]
  local _, batch, lane = parts(flow)
  local set = set_at(ARGV[first + 6])
  streams[batch], gone_lease[lane] = streams[batch] or {}, gone_lease[lane] or {}
  manners[string.format('%d', n)] = {
    flow = flow, batch = batch, lane = lane, set = set, why = ARGV[first + 3], due = ARGV[first + 4],
    action = action, is_answer = action == 'finish' and string.find(outcome, '^succeeded') ~= nil, history = ARGV[first + 7],
    money = money, is_billed = money == 'actual' or money == 'unpriced', is_sweep = action == 'sweep',
    outcome = outcome, ending = string.match(outcome, '^%S*'), is_first = ARGV[first + 8] == '1',
    counts = tally_of(set, today), stream = streams[batch], ended = gone_lease[lane], answered = 0, finished = 0, gone = {},
  }
  first = first + 9
end

local function add(map, key, value, another)
  local list = map[key]
  if not list then
    list = {}
    map[key] = list
  end
  local n = #list
  list[n + 1], list[n + 2] = value, another
end

local ids, tokens, manner_of, running_keys, job_keys, attempts = {}, {}, {}, {}, {}, 0
for at = first, #ARGV, 9 do
  local n, id = attempts + 1, ARGV[at]
  ids[n], tokens[n], manner_of[n] = id, ARGV[at + 1], manners[ARGV[at + 2]]
  running_keys[n], job_keys[n] = 'arq:in-progress:' .. id, 'arq:job:' .. id
  attempts = n
end

local answer, batches = {seq}, {}
local finished, results, histories = {}, {}, {}
local gone_keys, gone_strikes, gone_flow, gone_deadlines = {}, {}, {}, {}
local repeats, marks = {}, {}  -- by number of the attempt, by claim

local function read_marks()  -- what of the group was settled before
  local known, seen = {}, {}
  for n = 1, attempts do
    local token = tokens[n]
    if not manner_of[n].is_sweep then
      local claim, number = string.sub(token, 1, 12), string.sub(token, 13)
      if known[claim] == nil then
        known[claim] = redis.call('GET', P .. 'marks:' .. claim)
        marks[claim] = {}
      end
      if seen[token] or known[claim] and is_among(known[claim], number) then
        repeats[n] = true
      else
        seen[token] = true
        local fresh = marks[claim]
        fresh[#fresh + 1] = number
      end
    end
  end
end

local function write_marks()
  for claim, fresh in pairs(marks) do
    if #fresh > 0 then mark(claim, table.concat(fresh, '  '), 600000) end
  end
end

local function read_running()  -- per job of the group: token and flow of the attempt that runs, or ""
  local found = {}
  local values = attempts > 0 and redis.call('MGET', unpack(running_keys)) or {}
  for n = 1, attempts do found[ids[n]] = values[n] or '' end
  return found
end

read_marks()
local running, gone_holds, gone_doubts = read_running(), {}, {}
local holds = attempts > 0 and redis.call('HMGET', P .. 'holds', unpack(tokens)) or {}

local function book(n, kind, set, day, hold, hold_text, manner)  -- the attempt was answered
  local at = first + 9 * n - 9
  local amount_text, text_in, text_out = ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
  local amount, is_unpriced = amount_text + 0, manner.money == 'unpriced'  -- arithmetic reads numbers faster than tonumber
  if hold == 0 and is_unpriced then hold = nil end  -- nobody said that it would cost nothing
  local counts = set == manner.set and manner.counts or tally_of(set, today)
  local then_counts = day == today and counts or tally_of(set, day)
  then_counts.spent = then_counts.spent + amount
  counts.calls = counts.calls + 1
  counts.input_tokens = counts.input_tokens + text_in
  counts.output_tokens = counts.output_tokens + text_out
  if is_unpriced then count(set, 'unpriced', 1) end
  if hold and amount > hold then count(set, 'overrun', amount - hold) end
  post(tokens[n], kind, ids[n], set, day, amount_text ~= '0' and amount_text or '',
    '\t' .. (hold and hold_text or '') .. '\t' .. (text_in ~= '0' and text_in or '') .. '\t' ..
    (text_out ~= '0' and text_out or '') .. '\t1\t' .. (is_unpriced and '1' or '') .. '\t' .. ARGV[at + 7])
end

local function move_money(n, manner)
  local token, id = tokens[n], ids[n]
  if holds[n] then
    local hold, set, hold_text = read_hold(holds[n])
    gone_holds[#gone_holds + 1] = token
    local counts = set == manner.set and manner.counts or tally_of(set, today)
    counts.held = counts.held - hold
    if manner.is_billed then
      book(n, 's', set, today, hold, hold_text, manner)
    elseif manner.money == 'unconfirmed' then
      doubt(token, hold, id, manner.flow, set, manner.why)
    end
    return
  end
  local record = redis.call('HGET', P .. 'unconfirmed', token)
  if not record then
    if manner.is_billed then book(n, 's', manner.set, today, nil, '', manner) end
  elseif manner.money ~= 'unconfirmed' then
    local owed, _, set, day = read_doubt(record)
    gone_doubts[#gone_doubts + 1] = token
    count(set, 'unconfirmed', -owed, day)
    if manner.is_billed then
      book(n, 'l', set, day, owed, int(owed), manner)
    else
      post(token, 'l', id, set, day, '', '\t' .. int(owed))
    end
  end
end

local function are_all_open()  -- one question for the group, for most are
  local open = 0
  each(job_keys, function(...) open = open + redis.call('EXISTS', ...) end)
  return open == #job_keys
end

local all_open = are_all_open()

local function is_open(id)  -- the job's payload is the proof that it has no answer yet
  return not finished[id] and (all_open or redis.call('EXISTS', 'arq:job:' .. id) == 1)
end

local COUNTED = {cancelled = 'cancelled_jobs', default_cap = 'capped_by_default', succeeded = 'succeeded', failed = 'failed'}

local function count_finished()  -- per word of their outcome
  for _, manner in pairs(manners) do
    for word in string.gmatch(manner.finished > 0 and manner.outcome or '', '%S+') do
      bump(batches, manner.batch, COUNTED[word] or 'finish:' .. word, manner.finished)
    end
  end
end

local has_strikes, has_deadlines = nil, redis.call('EXISTS', P .. 'deadlines') == 1  -- strikes are known when the money is booked
local expires = int(now + tonumber(ARGV[4]))

local function finish(n, manner, flow, mine)
  local id, result = ids[n], ARGV[first + 9 * n - 3]
  if not is_open(id) then return false end
  finished[id] = true
  if flow == manner.flow then manner.gone[#manner.gone + 1] = id else add(gone_flow, flow, id) end
  local kept, told, gone = #results, #manner.stream, #gone_keys
  if result ~= '' then results[kept + 1], results[kept + 2] = 'arq:result:' .. id, result end
  manner.finished = manner.finished + 1
  manner.stream[told + 1], manner.stream[told + 2] = id, manner.ending
  gone_keys[gone + 1] = job_keys[n]
  if not (mine and manner.is_first) then gone_keys[gone + 2] = 'arq:retry:' .. id end
  if has_strikes then
    gone_strikes[#gone_strikes + 1] = id .. ':doubts'
    gone_strikes[#gone_strikes + 1] = id .. ':claims'
  end
  if has_deadlines then gone_deadlines[#gone_deadlines + 1] = manner.batch .. '\t' .. id end
  histories[#histories + 1] = P .. 'history:' .. id
  return true
end

local function place_of(id, manner)  -- where a job is now: it may have moved since the attempt began
  if running[id] ~= '' then return string.sub(running[id], 17) end
  if redis.call('ZSCORE', manner.flow, id) then return manner.flow end
  for _, other in ipairs(redis.call('SMEMBERS', P .. 'flows:' .. manner.batch)) do
    if redis.call('ZSCORE', other, id) then return other end
  end
  return manner.flow
end

local function forestall(id, flow)  -- a late answer came: whoever claimed the job again and did not send it yet, will not
  if stop_waiting(flow) then open(flow) end
  local other = string.sub(running[id], 1, 16)
  if other ~= '' and redis.call('HEXISTS', P .. 'holds', other) == 0 then
    local _, _, lane = parts(flow)
    gone_keys[#gone_keys + 1] = 'arq:in-progress:' .. id
    add(gone_lease, lane, id)
  end
end

local function put_back(id, manner)
  if not is_open(id) then return end
  local due = tonumber(manner.due)
  if manner.action == 'retry' then
    redis.call('SET', 'arq:retry:' .. id, manner.outcome)
    due = now + due
  end
  redis.call('ZADD', manner.flow, int(due), id)
  if due <= now then open(manner.flow) else later(manner.flow, due) end
end

local function remember(id, tried)  -- the last 20 attempts of a job that has no answer yet
  if not is_open(id) then return end
  redis.call('RPUSH', P .. 'history:' .. id, int(now) .. '\t' .. tried)
  redis.call('LTRIM', P .. 'history:' .. id, -20, -1)
end

local function move(id, manner, payload)
  if not is_open(id) then return end
  local kind, lane = string.match(manner.outcome, '^(%a+) (.+)$')
  local priority, batch = parts(manner.flow)
  local goal = P .. 'flow:' .. priority .. ':' .. batch .. ':' .. lane
  local due = tonumber(manner.due)
  redis.call('SET', 'arq:job:' .. id, payload)
  redis.call('DEL', 'arq:retry:' .. id)
  redis.call('ZREM', manner.flow, id)
  redis.call('ZADD', goal, int(now + due), id)
  take_in(goal, kind)
  if redis.call('HEXISTS', P .. 'batch:' .. batch, 'cancelled') == 1 then  -- whoever sweeps must look again
    redis.call('SADD', P .. 'cancelled', batch)
  end
  if due <= 0 then open(goal) else later(goal, now + due) end
end

for n = 1, attempts do
  local manner = manner_of[n]
  if not manner.is_sweep and not repeats[n] then
    local felt = ARGV[first + 9 * n - 1]
    move_money(n, manner)
    if manner.is_answer then manner.answered = manner.answered + 1 end
    if felt ~= '' then feel(manner.lane, felt) end
  end
end
for _, manner in pairs(manners) do
  if manner.answered > 0 then felt_of(manner.lane).answers = felt_of(manner.lane).answers + manner.answered end
end
apply_felts(function(token)
  for n = 1, attempts do
    if tokens[n] == token and manner_of[n].is_answer and not repeats[n] then return true end
  end
end)
has_strikes = redis.call('EXISTS', P .. 'strikes') == 1
write_marks()  -- not before: what fails until here has written nothing, and may be sent again
each(gone_holds, function(...) redis.call('HDEL', P .. 'holds', ...) end)
each(gone_doubts, function(...) redis.call('HDEL', P .. 'unconfirmed', ...) end)
flush()

local function is_spared(manner)  -- its batch has been reopened since it was to be swept
  return manner.outcome == 'cancelled' and redis.call('HEXISTS', P .. 'batch:' .. manner.batch, 'cancelled') == 0
end

for n = 1, attempts do
  local id, manner = ids[n], manner_of[n]
  local flow, action = manner.flow, manner.action
  local mine = running[id] == tokens[n] .. flow
  local verdict = 'done'
  if action == 'sweep' then
    if running[id] ~= '' or is_spared(manner) or not finish(n, manner, place_of(id, manner)) then
      verdict = 'repeat'
    elseif stop_waiting(flow) then  -- it may have been the one that the flow parked for
      open(flow)
    end
  elseif repeats[n] and not mine then
    verdict = 'repeat'
  else
    if mine then
      gone_keys[#gone_keys + 1] = running_keys[n]
      manner.ended[#manner.ended + 1] = id
      running[id] = ''
    end
    if manner.history ~= '' and not repeats[n] then remember(id, manner.history) end
    if manner.is_answer or mine and action == 'finish' then
      local place = mine and flow or place_of(id, manner)
      if not finish(n, manner, place, mine) then verdict = 'money' elseif not mine then forestall(id, place) end
    elseif mine and action == 'move' then
      move(id, manner, ARGV[first + 9 * n - 3])
    elseif mine then
      put_back(id, manner)
    else
      verdict = 'money'
    end
  end
  answer[n + 1] = verdict
end

local function has_msetex()  -- Valkey 9.1 and Redis 8.4 have it; Valkey calls itself Redis 7.2 too
  local valkey = redis.VALKEY_VERSION_NUM
  return (valkey or redis.REDIS_VERSION_NUM or 0) >= (valkey and 0x90100 or 0x80400)
end

local stored = #results
if stored > 0 and stored < SLICE and has_msetex() then
  results[stored + 1], results[stored + 2] = 'PXAT', expires
  redis.call('MSETEX', stored / 2, unpack(results))
else
  for i = 1, stored, 2 do redis.call('SET', results[i], results[i + 1], 'PXAT', expires) end
end
for batch, stream in pairs(streams) do each(stream, function(...) redis.call('XADD', P .. 'results:' .. batch, '*', ...) end) end
each(gone_keys, function(...) redis.call('DEL', ...) end)
each(histories, function(...)
  if redis.call('EXISTS', ...) == 0 then return end  -- one question, for most jobs have none
  for _, key in ipairs({...}) do redis.call('PEXPIRE', key, ARGV[4]) end
end)
each(gone_deadlines, function(...) redis.call('ZREM', P .. 'deadlines', ...) end)
each(gone_strikes, function(...) redis.call('HDEL', P .. 'strikes', ...) end)
for flow, ids in pairs(gone_flow) do each(ids, function(...) redis.call('ZREM', flow, ...) end) end
for lane, ids in pairs(gone_lease) do each(ids, function(...) redis.call('ZREM', P .. 'leases:' .. lane, ...) end) end
for _, manner in pairs(manners) do each(manner.gone, function(...) redis.call('ZREM', manner.flow, ...) end) end

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

count_finished()
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
