-- felt: stands before settle. What attempts that ended tell of their lane's pace: what goes back into its buckets, what
-- the provider says is left, whether calls were refused, and whether more of them may be in flight.
--
-- What an attempt felt is words: "unsent", "cut:<ms since it was sent>" (refused for load, or timed out),
-- "tokens:<reserved and not used>", "left:<requests>,<tokens>" (as the provider's headers say; either may be empty).
local KEPT_SHARE = 0.85  -- of the calls that were let in, after a cut
local ROUNDS_AT_CEILING = 50  -- a refusal there costs a pause, so it is tried rarely
local CEILING_MS = 30000  -- and for so long: a refusal by chance must not bound the lane for good
local felts = {}

local function felt_of(lane)
  local felt = felts[lane]
  if not felt then
    felt = {answers = 0, refused = 0, unsent = 0, tokens = 0, left = {}}
    felts[lane] = felt
  end
  return felt
end

local function feel(lane, words)
  local felt = felt_of(lane)
  for word, value in string.gmatch(words, '(%a+):?(%S*)') do
    if word == 'unsent' then
      felt.unsent = felt.unsent + 1
    elseif word == 'cut' then
      felt.cut = math.max(felt.cut or 0, now - tonumber(value))  -- when the youngest refused call was sent
      felt.refused = felt.refused + 1
    elseif word == 'tokens' then
      felt.tokens = felt.tokens + tonumber(value)
    elseif word == 'left' then
      for i, left in ipairs({string.match(value, '^(%d*),(%d*)$')}) do
        if left ~= '' then felt.left[i] = math.min(felt.left[i] or math.huge, tonumber(left)) end
      end
    end
  end
end

local function cut(pace, in_flight, refused)  -- one cut per window: what was sent before the last one says nothing new
  local most = math.max(1, math.min(pace.target, in_flight))
  local let_in = math.max(most / 2, most - refused)
  -- not below half of the target: while a lane fills after a pause, those in flight are no measure of what it bears
  change(pace, 'target', math.max(1, math.floor(pace.cut and math.max(let_in * KEPT_SHARE, pace.target / 2) or most / 2)))
  change(pace, 'ceiling', math.floor(let_in))
  change(pace, 'cut', now)
  change(pace, 'grown', nil)
end

local function grow(pace, answers)
  if not pace.cut then
    change(pace, 'target', math.min(MOST_TARGET, pace.target + answers))
    change(pace, 'grew', now)
    return
  end
  local grown, target = (tonumber(pace.grown) or 0) + answers, pace.target
  local ceiling = now - pace.cut < CEILING_MS and tonumber(pace.ceiling) or 0
  local function step()  -- how many answers let one more in: few far below the ceiling of the last cut, many at it
    if target < 0.8 * ceiling then return math.min(target, 4) end
    return target * (target > FEW and target >= ceiling and target <= ceiling + 1 and ROUNDS_AT_CEILING or 1)
  end
  while grown >= step() and target < MOST_TARGET do
    grown, target = grown - step(), target + 1
  end
  if target ~= pace.target then change(pace, 'target', target) end
  change(pace, 'grown', grown)
end

local function adapt(pace, lane, felt)
  if felt.cut or felt.answers > 0 then
    local in_flight = redis.call('ZCARD', P .. 'leases:' .. lane)
    if felt.cut then
      if not pace.cut or felt.cut > pace.cut then cut(pace, in_flight, felt.refused) end
    elseif in_flight >= 0.75 * pace.target and pace.target < MOST_TARGET then
      grow(pace, felt.answers)
    end
    if pace.cut and pace.target < FEW then change(pace, 'grew', now) end  -- the lane is not silent
  end
  if felt.answers > 0 and pace.refusals then
    change(pace, 'refusals', nil)
    change(pace, 'refused', nil)
  end
end

local function end_probe(provider, is_answered)  -- the account pays again: everybody may go on
  local token = provider.probe and string.sub(provider.probe, 1, 16)
  if not token or not is_answered(token) then return end
  redis.call('HDEL', provider.key, 'probing', 'probe')
  local id = string.sub(provider.key, #P + 10)
  for _, lane in ipairs(redis.call('SMEMBERS', P .. 'lanes')) do
    if string.match(lane, '^[^:]*') == id then
      ring('lane', lane)
      redis.call('PUBLISH', P .. 'control', 'lane ' .. lane)
    end
  end
end

local function apply_felts(is_answered)  -- a token, by this group; while the leases of the group still count
  for lane, felt in pairs(felts) do
    local pace, provider = paces_of(lane)
    for _, one in ipairs({pace, provider}) do
      take_requests(one, -felt.unsent)
      take_tokens(one, -felt.tokens)
    end
    if pace.rpm > 0 and felt.left[1] and felt.left[1] < pace.requests then change(pace, 'requests', felt.left[1]) end
    if pace.tpm > 0 and felt.left[2] and felt.left[2] < pace.tokens then change(pace, 'tokens', felt.left[2]) end
    adapt(pace, lane, felt)
    if provider.probing then end_probe(provider, is_answered) end
  end
  write_paces()
end
