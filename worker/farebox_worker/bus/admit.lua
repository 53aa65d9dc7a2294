-- admit: set the worst-case cost of claimed jobs aside, each all or nothing over its scopes.
--
-- ARGV[4]  number of scopes     ARGV[5]  number of manners; then the names of the scopes
-- then per manner, which is what many jobs share, 2: flow, positions of their scopes (from 1, by ",")
-- then per job (6): id, token, number of its manner, score to go back to, hold in nano-dollars (-1: no price is known),
--   tokens it is likely to use
--
-- Returns {seq, per job: "ok" | "no_room <limit> <need>" | "wait <ms>" | "unpriced" (and a limit applies) | "cancelled" | "lost"}
-- Invariant: spent + held + unconfirmed ≤ limit, for every limit, after every admit; a window's limit counts what is spent
-- and unconfirmed in the window of now, and all that is held.
-- A job without room waits in a siding of its flow when others may go on: one behind it was admitted, or it fits no more
-- whatever becomes of the calls in flight, or the limit is a tag's, which need not concern them. Else, as when all are alike,
-- it goes back to its place and its flow parks. A siding parks, reopens and starves as any flow; its jobs stand by their needs.
-- A job whose lane or provider has too few tokens per minute left goes back with all of its lane behind it; nothing of it is
-- claimed meanwhile.
local MOST_ASIDE = 10000  -- jobs in a siding; then the flow itself parks: what all of it waits for moves no million jobs
local names, limits, limited = {}, {}, {}  -- limits: of each scope, those that it has
for i = 1, tonumber(ARGV[4]) do names[i] = ARGV[5 + i] end

local function read_limits()
  local wanted, keys = {}, {}
  for i, name in ipairs(names) do
    limits[i] = {}
    for _, limit in ipairs({name, 'day:' .. name, 'month:' .. name}) do
      wanted[#wanted + 1] = {of = limits[i], name = limit}
      keys[#keys + 1] = P .. 'limit:' .. limit
    end
  end
  for at, amount in ipairs(read(keys, function(...) return redis.call('MGET', ...) end)) do
    if amount then
      local name = wanted[at].name
      local limit = {name = name, amount = tonumber(amount) or 0, starved = redis.call('GET', P .. 'starved:' .. name)}
      limit.used, limit.held = used(name)
      limit.reach = limit.amount - limit.used + limit.held
      wanted[at].of[#wanted[at].of + 1] = limit
      limited[#limited + 1] = limit
    end
  end
end

local function scopes_at(positions)  -- the limits that apply, and the set
  local listed, applying = {}, {}
  for position in string.gmatch(positions, '%d+') do
    listed[#listed + 1] = names[tonumber(position)]
    for _, limit in ipairs(limits[tonumber(position)]) do applying[#applying + 1] = limit end
  end
  return applying, table.concat(listed, '\t')
end

read_limits()
local manners, cancelled = {}, {}
local first = 6 + #names
for n = 1, tonumber(ARGV[5]) do
  local flow = ARGV[first]
  local _, batch, lane = parts(flow)
  if cancelled[batch] == nil then cancelled[batch] = redis.call('HEXISTS', P .. 'batch:' .. batch, 'cancelled') == 1 end
  local applying, set = scopes_at(ARGV[first + 1])
  manners[string.format('%d', n)] = {
    flow = flow, lane = lane, is_cancelled = cancelled[batch], limits = applying, set = set, counts = tally_of(set, today),
  }
  first = first + 2
end

local keys, tokens = {}, {}
for at = first, #ARGV, 6 do
  local n = #keys + 1
  keys[n], tokens[n] = 'arq:in-progress:' .. ARGV[at], ARGV[at + 1]
end
local running = read(keys, function(...) return redis.call('MGET', ...) end)
local held = read(tokens, function(...) return redis.call('HMGET', P .. 'holds', ...) end)
local is_held, is_gone = {}, {}  -- tokens, in this very call
local verdicts, holds = {seq}, {}
local lacking, last_ok = {}, {}  -- jobs without room, which may go aside; by flow, number of its last job that was admitted

local function obstacle(manner, hold)  -- the first limit that leaves no room
  if hold == 0 then return nil end
  local applying = manner.limits
  for i = 1, #applying do
    local limit = applying[i]
    if limit.starved and limit.starved ~= manner.flow then return limit end
    if limit.used + hold > limit.amount then return limit end
  end
end

local function go_back(id, flow, score)
  local _, _, lane = parts(flow)
  for _, pace in ipairs({paces_of(lane)}) do take_requests(pace, -1) end  -- it was not sent
  redis.call('ZADD', flow, score, id)
  redis.call('ZREM', P .. 'leases:' .. lane, id)
  redis.call('DEL', 'arq:in-progress:' .. id)
end

local function yield(flow, name)  -- it waits for this limit now: it keeps nobody out of others
  for _, limit in ipairs(limited) do
    if limit.starved == flow and limit.name ~= name then
      redis.call('DEL', P .. 'starved:' .. limit.name)
      limit.starved = nil
    end
  end
end

local function park(flow, name, need)
  local _, _, lane = parts(flow)
  redis.call('ZREM', P .. 'open:' .. lane, flow)
  redis.call('ZREM', P .. 'wait:' .. lane, flow)
  local parked = redis.call('HGET', P .. 'parking', flow)
  local since = int(now)
  if parked then  -- by another worker's job: the smaller need decides when the flow is tried again
    local before, needed, time = string.match(parked, '^([^\t]*)\t(%d+)\t(%d+)')
    if before ~= name or tonumber(needed) <= need then return end
    since = time
  end
  redis.call('HSET', P .. 'parking', flow, name .. '\t' .. int(need) .. '\t' .. since)
  redis.call('ZADD', P .. 'parked:' .. name, int(need), flow)
end

local sidings = {}  -- by name: how many jobs are there

local function size_of(siding, flow)
  if not sidings[siding] then
    sidings[siding] = redis.call('ZCARD', siding)
    local kind = redis.call('SISMEMBER', P .. 'movable', flow) == 1 and 'movable' or 'spread'
    take_in(siding, redis.call('SISMEMBER', P .. kind, flow) == 1 and kind or 'last')
  end
  return sidings[siding]
end

local function most_aside(one)  -- how many may be in the siding that this job goes to
  local is_passed = (last_ok[one.flow] or 0) > one.n
  if is_passed or string.sub(parts_of_limit(one.limit.name), 1, 4) == 'tag:' then return MOST_ASIDE end
  return one.hold > one.limit.reach and LOOK_AHEAD or 0
end

local function place_lacking()  -- those without room: where they wait, and for what
  local needs, had = {}, {}  -- by flow what it parks for; by siding how many jobs it had
  for _, one in ipairs(lacking) do
    local flow, name, score, most = one.flow, one.limit.name, one.score, most_aside(one)
    local siding = siding_of(flow, name)
    if siding ~= flow and most > 0 and size_of(siding, flow) < most then
      redis.call('ZREM', flow, one.id)
      had[siding] = had[siding] or sidings[siding]
      sidings[siding] = sidings[siding] + 1
      flow = siding
    end
    if flow == siding then score = int(math.min(one.hold, SEQUENCE_END - 1)) end
    go_back(one.id, flow, score)
    local need = needs[flow]
    if not need then
      needs[flow] = {name = name, amount = one.hold}
    elseif need.name == name then
      need.amount = math.min(need.amount, one.hold)
    end
  end
  for flow, need in pairs(needs) do
    if not had[flow] or had[flow] == 0 or redis.call('HEXISTS', P .. 'parking', flow) == 1 then
      park(flow, need.name, need.amount)
    else
      open(flow)  -- it was reopened for others, which may fit: a claim finds out what it needs now
    end
  end
end

local waits = {}  -- by lane: for how long nothing of it may be sent

local function tokens_short(lane, tokens)  -- for how many ms; what fits is taken
  local pace, provider = paces_of(lane)
  if waits[lane] or (pace.tpm == 0 and provider.tpm == 0) then return waits[lane] end
  local wait_ms = math.max(tokens_wait_ms(pace, tokens), tokens_wait_ms(provider, tokens), kept_ms(pace, provider))
  change(pace, 'mean', pace.mean == 0 and tokens or 0.9 * pace.mean + 0.1 * tokens)
  if wait_ms == 0 then
    take_tokens(pace, tokens)
    take_tokens(provider, tokens)
    if pace.need > 0 then change(pace, 'need', 0) end
    be_fed(pace, provider)
    return nil
  end
  change(pace, 'need', tokens)
  waits[lane] = wait_ms
  return wait_ms
end

for n = 1, #tokens do
  local at, token = first + 6 * n - 6, tokens[n]
  local id, manner, score, hold = ARGV[at], manners[ARGV[at + 2]], ARGV[at + 3], tonumber(ARGV[at + 4])
  local flow = manner.flow
  local verdict
  if is_gone[token] or running[n] ~= token .. flow then
    verdict = 'lost'
  elseif held[n] or is_held[token] then
    verdict = 'ok'
  elseif manner.is_cancelled then
    verdict = 'cancelled'
  elseif hold < 0 and #manner.limits > 0 then
    verdict = 'unpriced'
  else
    if hold < 0 then hold = 0 end
    local blocked = obstacle(manner, hold)
    local short_ms = not blocked and tokens_short(manner.lane, tonumber(ARGV[at + 5]))
    if blocked then
      is_gone[token] = true
      yield(flow, blocked.name)
      verdict = 'no_room ' .. blocked.name .. ' ' .. int(hold)
      lacking[#lacking + 1] = {n = n, id = id, flow = flow, score = score, hold = hold, limit = blocked}
    elseif short_ms then
      go_back(id, flow, score)
      is_gone[token] = true
      if tonumber(score) <= now then open(flow) else later(flow, tonumber(score)) end
      verdict = 'wait ' .. int(short_ms)
    else
      manner.counts.held = manner.counts.held + hold
      for i = 1, #manner.limits do
        local limit = manner.limits[i]
        limit.used = limit.used + hold
        if limit.starved == flow then
          redis.call('DEL', P .. 'starved:' .. limit.name)
          limit.starved = nil
        end
      end
      is_held[token], last_ok[flow] = true, n
      local record = #holds
      holds[record + 1] = token
      holds[record + 2] = (hold > 0 and ARGV[at + 4] or '0') .. '\t' .. id .. '\t' .. flow .. '\t' .. manner.set
      verdict = 'ok'
    end
  end
  verdicts[n + 1] = verdict
end
place_lacking()
each(holds, function(...) redis.call('HSET', P .. 'holds', ...) end)
flush()
write_paces()
return verdicts
