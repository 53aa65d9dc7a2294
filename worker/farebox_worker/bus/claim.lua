-- claim: take due jobs from the flows of many lanes, fairly, and lease them to the caller.
--
-- ARGV[4]  the claim's name, 11 random characters; an attempt's token is this, a digit for each 64 attempts (so that hashes of
--          marks stay short, see settle.lua), and the attempt's number in four
-- ARGV[5]  lease in ms
-- ARGV[6]  a batch to serve alone, or "" for all
-- ARGV[7]  most bytes of payload in the answer (one job always fits)
-- ARGV[8…] per lane: lane, free slots, most jobs in flight in the whole fleet (0 = no limit)
--
-- Returns {seq, now in ms, when the next job is due in ms or 0,
--          per flow: its name, number of its first attempt, how many of its jobs follow, and per job: id, score to go back to,
--          "" or by spaces attempts before, doubts and claims without an admit, payload}
-- It takes no more than the pace of the lane and of its provider lets be sent now (see pace.lua), and says when more may be.
-- Invariant: an id in flight has its lease's end as score, so it is never at the head of its flow.
-- It takes MOST jobs at the most, and says that the next is due at once: nobody waits long for the server meanwhile.
local MOST = 256
local LEAST_SHARE = 16  -- of a flow among many: a visit costs as much as some jobs, and virtual time keeps them level
local LET_IN_MS = 500  -- a call that was not refused by then will not be
local SILENT_MS = 30000  -- of few calls: they may hang, and must not hold their lane until they time out
local claim, lease, only, max_bytes = ARGV[4], tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local ends = int(now + lease)
local answer = {seq, int(now), 0}
local next_due = nil

local function token(n) return claim .. string.format('%x%04d', math.floor(n / 64), n) end

local function history(id)
  local attempts = redis.call('GET', 'arq:retry:' .. id) or 0
  local strikes = redis.call('HMGET', P .. 'strikes', id .. ':doubts', id .. ':claims')
  return attempts .. ' ' .. (strikes[1] or 0) .. ' ' .. (strikes[2] or 0)
end

local function describe(id, score, is_new, payload)
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4] = id, score, is_new and '' or history(id), payload
end

local before = redis.call('GET', P .. 'claim:' .. claim)
if before then  -- the answer was lost on its way: give what is still the caller's
  for mine, flow, score, id in string.gmatch(before, '([^\t]+)\t([^\t]+)\t([^\t]+)\t([^\n]+)\n') do
    local payload = redis.call('GET', 'arq:job:' .. id)
    if payload and redis.call('GET', 'arq:in-progress:' .. id) == mine .. flow then
      local n = #answer
      answer[n + 1], answer[n + 2], answer[n + 3] = flow, tonumber(string.sub(mine, 13)), 1
      describe(id, score, tonumber(score) < SEQUENCE_END and not is_siding(flow), payload)  -- there scores are needs
    end
  end
  return answer
end

local taken, bytes, record = 0, 0, {}
local running, leases = {}, {}  -- what this claim takes: keys and values; by lane, scores and ids

local function due_ids(flow, most)  -- id, score pairs: what is due by time first, then by sequence; where those begin
  local found = redis.call('ZRANGEBYSCORE', flow, '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, most)
  local fresh_ends = #found
  while fresh_ends > 0 and tonumber(found[fresh_ends]) >= SEQUENCE_END do fresh_ends = fresh_ends - 2 end
  local late = {unpack(found, fresh_ends + 1)}
  if #found == 2 * most then  -- others may stand behind them
    late = redis.call('ZRANGEBYSCORE', flow, int(SEQUENCE_END), int(now), 'WITHSCORES', 'LIMIT', 0, most)
  end
  if #late == 0 then return found, 1 end
  local due = {}
  for i = 1, #late, 2 do
    if redis.call('EXISTS', 'arq:in-progress:' .. late[i]) == 1 then
      redis.call('ZADD', flow, int(now + 1000), late[i])  -- its lease has ended: lapse decides, within a second
    else
      due[#due + 1], due[#due + 2] = late[i], late[i + 1]
    end
  end
  local late_ends = #due
  for i = 1, math.min(fresh_ends, 2 * most - late_ends) do due[late_ends + i] = found[i] end
  return due, late_ends + 1
end

local function take(flow, leased_of_lane, most)
  local found, fresh_from = due_ids(flow, most)
  if #found == 0 then return 0 end
  local keys = {}
  for i = 1, #found, 2 do keys[(i + 1) / 2] = 'arq:job:' .. found[i] end
  local payloads = redis.call('MGET', unpack(keys))
  local leased, count, held, may_be_new = {}, 0, #leased_of_lane, not is_siding(flow)
  local head = #answer
  answer[head + 1], answer[head + 2], answer[head + 3] = flow, taken, 0
  for i = 1, #found, 2 do
    local id, score, payload = found[i], found[i + 1], payloads[(i + 1) / 2]
    if not payload then
      redis.call('ZREM', flow, id)
    elseif taken == 0 or bytes + #payload <= max_bytes then
      local mine, n, at = token(taken), 2 * count, 2 * taken
      leased[n + 1], leased[n + 2] = ends, id
      leased_of_lane[held + n + 1], leased_of_lane[held + n + 2] = ends, id
      running[at + 1], running[at + 2] = 'arq:in-progress:' .. id, mine .. flow
      taken, count, bytes = taken + 1, count + 1, bytes + #payload
      record[taken] = mine .. '\t' .. flow .. '\t' .. score .. '\t' .. id .. '\n'
      describe(id, score, may_be_new and i >= fresh_from, payload)
    else
      bytes = max_bytes
      break
    end
  end
  answer[head + 3] = count
  if count > 0 then redis.call('ZADD', flow, unpack(leased)) end
  return count
end

local function close(flow, lane, got)  -- nothing due: wait for the next time, if there is one
  redis.call('ZREM', P .. 'open:' .. lane, flow)
  if redis.call('ZCARD', flow) == got then return end  -- all were taken just now: what becomes of them opens it
  local soonest = redis.call('ZRANGE', flow, 0, 0, 'WITHSCORES')
  if soonest[2] then later(flow, tonumber(soonest[2])) end
end

local own_flows = {}  -- by batch that is served alone, and by lane

local function flows_of(batch, lane)
  if not own_flows[batch] then
    local found = {}
    for _, flow in ipairs(redis.call('SMEMBERS', P .. 'flows:' .. batch)) do
      local _, _, of = parts(flow)
      found[of] = found[of] or {}
      table.insert(found[of], flow)
    end
    own_flows[batch] = found
  end
  return own_flows[batch][lane] or {}
end

local function pick(lane, batch)  -- the flow whose turn it is, of a batch or, with "", of all
  local opened = P .. 'open:' .. lane
  if batch == '' then return redis.call('ZRANGE', opened, 0, 0)[1] end
  local first, least
  for _, flow in ipairs(flows_of(batch, lane)) do
    local score = tonumber(redis.call('ZSCORE', opened, flow))
    if score and (not least or score < least) then first, least = flow, score end
  end
  return first
end

local function count_rivals(flow, lane)  -- how many flows share its priority, itself among them
  if only ~= '' then return 1 end
  local band = (9 - parts(flow)) * 1e14
  return redis.call('ZCOUNT', P .. 'open:' .. lane, int(band), '(' .. int(band + 1e14))
end

local function weight_of(flow)  -- the sidings of a batch share about what one flow gets
  local _, batch = parts(flow)
  return is_siding(flow) and math.max(1, redis.call('SCARD', P .. 'flows:' .. batch) - 1) or 1
end

local function head_of(lane)  -- the flow that waits for the soonest time, and that time
  local head = redis.call('ZRANGE', P .. 'wait:' .. lane, 0, 0, 'WITHSCORES')
  return head[1], tonumber(head[2])
end

local function look_ahead(lane)  -- when its next job becomes due
  for _ = 1, 16 do  -- the head may be out of date: its flow may be empty by now, or wait for later
    local flow, due = head_of(lane)
    if not flow then return end
    local soonest = redis.call('ZRANGE', flow, 0, 0, 'WITHSCORES')[2]
    if soonest and tonumber(soonest) <= due then
      if not next_due or due < next_due then next_due = due end
      return
    end
    redis.call('ZREM', P .. 'wait:' .. lane, flow)
    if soonest then later(flow, tonumber(soonest)) end
  end
end

local resting = {}  -- by lane that has no work: when it may have some

local function may_have_work(lane)
  if redis.call('EXISTS', P .. 'open:' .. lane) == 1 then return true end
  local _, due = head_of(lane)
  resting[lane] = due and due > now and due or nil
  return due ~= nil and due <= now
end

local function look_ahead_of_all()  -- only at those that may be the next: there may be many
  repeat
    local next_lane, soonest = nil, next_due or math.huge
    for lane, due in pairs(resting) do
      if due < soonest then next_lane, soonest = lane, due end
    end
    if next_lane then
      resting[next_lane] = nil
      look_ahead(next_lane)
    end
  until not next_lane
end

local function wake(lane)  -- flows whose next job has become due
  local waiting = P .. 'wait:' .. lane
  for _, flow in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', int(now), 'LIMIT', 0, 1000)) do
    redis.call('ZREM', waiting, flow)
    local soonest = redis.call('ZRANGE', flow, 0, 0, 'WITHSCORES')
    if soonest[2] and (tonumber(soonest[2]) <= now) then open(flow) elseif soonest[2] then later(flow, tonumber(soonest[2])) end
  end
  look_ahead(lane)
end

local function wait_until(due)
  if not next_due or due < next_due then next_due = due end
end

local function has_work(lane) return redis.call('EXISTS', P .. 'open:' .. lane) == 1 end

local sharing = {}  -- by provider: how many of its lanes asked for here have work, and had no turn yet

local function sharers(provider)
  if not sharing[provider.key] then
    local n = 0
    for i = 8, #ARGV, 3 do
      local _, of = paces_of(ARGV[i])
      if of == provider and has_work(ARGV[i]) then n = n + 1 end
    end
    sharing[provider.key] = n + 1
  end
  sharing[provider.key] = math.max(1, sharing[provider.key] - 1)
  return sharing[provider.key]
end

local function sendable(pace, lane_pace, lanes)  -- how many jobs its buckets have room for, shared by so many lanes
  local most = math.huge
  if pace.rpm > 0 then
    most = math.floor(pace.requests + 0.001)
    if most < 1 then  -- enough at once that whoever waits need not come for each
      local enough = math.min(pace.most_requests, math.max(1, pace.rpm / 600))
      wait_until(now + math.ceil((enough - pace.requests) * 60000 / pace.rpm))
      return 0
    end
  end
  if pace.tpm > 0 then
    local kept = kept_ms(lane_pace, pace)
    if kept > 0 then
      wait_until(now + math.min(kept, 1000))
      return 0
    end
    local wait_ms = tokens_wait_ms(pace, math.max(lane_pace.need, lane_pace.mean, 1))
    if wait_ms > 0 then
      if pace ~= lane_pace then run_short(lane_pace, pace, wait_ms) end
      wait_until(now + math.max(50, wait_ms))
      return 0
    end
    if lane_pace.mean > 0 then most = math.min(most, math.max(1, math.floor(pace.tokens / lane_pace.mean))) end
  end
  return most == math.huge and most or math.max(1, math.ceil(most / lanes))
end

local function room_in_flight(lane, pace, most)  -- a provider that refuses does it at once: what runs so long was let in
  local in_flight = redis.call('ZCARD', P .. 'leases:' .. lane)
  local grew = tonumber(pace.grew)
  if pace.target < (pace.cut and FEW or MOST_TARGET) and in_flight >= 0.75 * pace.target then
    local patience, more = pace.cut and SILENT_MS or LET_IN_MS, pace.cut and 1 or pace.target
    if grew and now - grew >= patience then change(pace, 'target', math.min(MOST_TARGET, pace.target + more)) end
    if not grew or now - grew >= patience then
      change(pace, 'grew', now)
      grew = now
    end
    wait_until(grew + patience)
  end
  local room = math.min(pace.target, most > 0 and most or math.huge) - in_flight
  if room < 1 and (most > 0 and most <= pace.target or only ~= '') then wait_until(now + 1000) end  -- who makes room may go
  return room
end

local function may_probe(provider)  -- one job of it runs at a time, until one was answered
  local token, id = string.match(provider.probe or '', '^(%S+) (.*)$')
  local is_of_this_claim = token and string.sub(token, 1, #claim) == claim  -- which is written when all lanes had a turn
  if token and (is_of_this_claim or string.sub(redis.call('GET', 'arq:in-progress:' .. id) or '', 1, 16) == token) then
    wait_until(now + 1000)
    return false
  end
  return true
end

local function likely_to_fit()  -- payloads into the answer: those that do not are read in vain, and may be large
  if taken == 0 then return LEAST_SHARE end
  return math.max(1, math.ceil((max_bytes - bytes) * taken / bytes))
end

local function serve(lane, slots)  -- returns how many it took
  local before = taken
  leases[lane] = leases[lane] or {}
  local least = math.min(LEAST_SHARE, math.ceil(slots / 2))
  local priority, rivals
  while slots > 0 and bytes < max_bytes and taken < MOST do
    local flow = pick(lane, only)
    if not flow then break end
    if parts(flow) ~= priority then priority, rivals = parts(flow), count_rivals(flow, lane) end
    local share = math.min(slots, 64)
    if rivals > 1 then share = math.max(least, math.ceil(slots / rivals)) end
    share = math.min(share, slots, MOST - taken, likely_to_fit())
    local got = take(flow, leases[lane], share)
    slots = slots - got
    if got < share and bytes < max_bytes then
      close(flow, lane, got)
      rivals = rivals - 1
    elseif got > 0 then
      redis.call('ZINCRBY', P .. 'open:' .. lane, got * weight_of(flow), flow)
    end
  end
  wake(lane)
  return taken - before
end

local function is_my_turn(lane)  -- or whether others who wait for room in it are to go first
  if only == '' then return true end  -- what they have is its own to serve as well
  local own = parts(pick(lane, only))
  local is_mine = is_turn_of(lane, only, function(rival)
    local flow = pick(lane, rival)
    if not flow then return nil end
    local priority, batch = parts(flow)
    return batch == only and -1 or priority - own
  end)
  if not is_mine then
    wait_for_turn(lane, only)
    wait_until(now + CALLED_MS)
  end
  return is_mine
end

local function visit(lane, free, most)
  if not may_have_work(lane) then return end  -- its pace is not read: it may be one of many
  local pace, provider = paces_of(lane)
  local paused = math.max(pace.paused, provider.paused)
  if paused > now then
    wait_until(paused)
    return
  end
  wake(lane)
  if free < 1 or not pick(lane, only) then return end
  local places = room_in_flight(lane, pace, most)
  local room = places
  if room < 1 then wait_for_turn(lane, only) end
  if room >= 1 then room = math.min(room, sendable(pace, pace, 1)) end
  if room >= 1 and (provider.rpm > 0 or provider.tpm > 0) then
    room = math.min(room, sendable(provider, pace, sharers(provider)))
  end
  if room >= 1 and provider.probing then room = may_probe(provider) and 1 or 0 end
  if room < 1 or not is_my_turn(lane) then return end
  local got = serve(lane, math.min(free, room))
  take_requests(pace, got)
  take_requests(provider, got)
  had_turn(lane, only)
  if got == places and got < free and pick(lane, only) then wait_for_turn(lane, only) end
  if provider.probing and got > 0 then
    change(provider, 'probe', token(taken - 1) .. ' ' .. answer[#answer - 3])
  elseif only == '' and got < room and has_work(lane) then
    ring('lane', lane)  -- more than this caller could take
  end
end

local function is_full() return taken == MOST or bytes >= max_bytes end

local asked = (#ARGV - 7) / 3
for n = 0, asked - 1 do  -- another lane first each time, for lanes may share what a provider allows
  if is_full() then break end
  local i = 8 + 3 * ((n + seq) % asked)
  visit(ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
end
each(running, function(...) redis.call('MSET', ...) end)
for lane, leased in pairs(leases) do each(leased, function(...) redis.call('ZADD', P .. 'leases:' .. lane, ...) end) end
look_ahead_of_all()
if is_full() then wait_until(now) end
write_paces()
if taken > 0 then redis.call('SET', P .. 'claim:' .. claim, table.concat(record), 'PX', int(lease)) end
answer[3] = next_due and int(next_due) or 0
return answer
