-- pace: stands before the verbs that send, settle or steer. Knows what a lane and its provider may send now: requests and
-- tokens per minute, in buckets that fill evenly by the server's clock, and how many calls may be in flight.
--
-- The state is a few fields of <ns>:lane:<lane> and of <ns>:provider:<id>. rpm and tpm are configured; rpm_seen and
-- tpm_seen are what the provider's headers say, and count where nothing is configured. requests and tokens are the levels
-- of the buckets at `paced` (ms); a bucket of requests holds a second's worth, one of tokens a minute's, as the providers'
-- do, and may be in debt. need is what the job takes that waits for tokens, mean what jobs take. target bounds the calls
-- in flight: it doubles until the first cut (ms), then grows slowly at the ceiling of the last cut, see felt.lua.
-- short is since when a lane waits for tokens of its provider, starved the time until which a provider keeps its tokens
-- for a lane that waited long, and that lane; then "-", while nobody may be the next.
-- window counts, per minute of the clock, requests and tokens taken: minute, requests, those of the minute before, tokens,
-- those of the minute before.
local FIRST_TARGET, MOST_TARGET = 64, 10000
local FEW = 8  -- calls in flight, up to which no ceiling is believed, and silence lets one more in
local STARVED_MS = 30000  -- of waiting for tokens that smaller neighbours take; and of what they have afterwards
local KEPT_MS = 10000  -- for whoever waited to come and take them
local USED_SHARE = 0.98  -- of what is allowed: no two clocks, and no two ways of counting, agree entirely
local paces = {}

local function filled(level, size, per_ms, passed)
  return math.min(size, (tonumber(level) or size) + passed * per_ms)
end

local function pace_at(key)  -- as it is now; read once in a script
  if paces[key] then return paces[key] end
  local pace, stored = {}, redis.call('HGETALL', key)
  for i = 1, #stored, 2 do pace[stored[i]] = stored[i + 1] end
  local passed = math.max(0, now - (tonumber(pace.paced) or now))
  pace.paused = tonumber(pace.paused_until) or 0
  pace.rpm = (tonumber(pace.rpm or pace.rpm_seen) or 0) * USED_SHARE
  pace.tpm = (tonumber(pace.tpm or pace.tpm_seen) or 0) * USED_SHARE
  pace.most_requests = math.max(1, pace.rpm / 60)
  pace.requests = filled(pace.requests, pace.most_requests, pace.rpm / 60000, passed)
  pace.tokens = filled(pace.tokens, pace.tpm, pace.tpm / 60000, passed)
  pace.need, pace.mean = tonumber(pace.need) or 0, tonumber(pace.mean) or 0
  pace.cut, pace.target = tonumber(pace.cut), tonumber(pace.target) or FIRST_TARGET
  pace.key, pace.changed, pace.minutes = key, {}, nil  -- whatever else may stand in the hash
  paces[key] = pace
  return pace
end

local by_lane = {}

local function paces_of(lane)  -- the lane's, and its provider's
  local known = by_lane[lane]
  if not known then
    known = {pace_at(P .. 'lane:' .. lane), pace_at(P .. 'provider:' .. string.match(lane, '^[^:]*'))}
    by_lane[lane] = known
  end
  return known[1], known[2]
end

local function change(pace, field, value)  -- nil removes it
  pace[field] = value
  pace.changed[field] = true
end

local function window_of(pace)  -- rolled on to the minute of now
  if pace.minutes then return pace.minutes end
  local minute = math.floor(now / 60000)
  local stored = {}
  for n in string.gmatch(pace.window or '', '%S+') do stored[#stored + 1] = tonumber(n) end
  local window = {minute, 0, 0, 0, 0}
  if #stored == #window and stored[1] == minute then
    window = stored
  elseif #stored == #window and stored[1] == minute - 1 then
    window = {minute, 0, stored[2], 0, stored[4]}
  end
  pace.minutes = window
  return window
end

local function take_requests(pace, n)  -- less than nothing gives back
  if pace.rpm == 0 or n == 0 then return end
  change(pace, 'requests', math.min(pace.most_requests, pace.requests - n))
  local window = window_of(pace)
  window[2] = window[2] + n
end

local function take_tokens(pace, n)
  if pace.tpm == 0 or n == 0 then return end
  change(pace, 'tokens', math.min(pace.tpm, pace.tokens - n))
  local window = window_of(pace)
  window[4] = window[4] + n
end

local function tokens_wait_ms(pace, n)  -- until so many are there; what is larger than the bucket waits for a full one
  if pace.tpm == 0 then return 0 end
  local lacking = math.min(n, pace.tpm) - pace.tokens
  return lacking > 0.001 and math.ceil(lacking * 60000 / pace.tpm) or 0
end

local function kept_ms(pace, provider)  -- for how long the provider's tokens are kept for another lane than this
  local until_ms, key = string.match(provider.starved or '', '^(%d+) (.+)$')
  if not key or key == '-' or key == pace.key then return 0 end
  return math.max(0, tonumber(until_ms) - now)
end

local function run_short(pace, provider, wait_ms)  -- a lane needs more of the provider's tokens than there are
  local since = tonumber(pace.short)
  if not since then
    change(pace, 'short', now)
  elseif now - since > STARVED_MS and now >= (tonumber(string.match(provider.starved or '', '^%d+')) or 0) then
    change(provider, 'starved', string.format('%.0f', now + wait_ms + KEPT_MS) .. ' ' .. pace.key)
  end
end

local function be_fed(pace, provider)  -- it has got them
  if not pace.short then return end
  change(pace, 'short', nil)
  if string.match(provider.starved or '', ' (.+)$') == pace.key then
    change(provider, 'starved', string.format('%.0f', now + STARVED_MS) .. ' -')
  end
end

local function write_paces()
  for key, pace in pairs(paces) do
    local set, gone = {}, {}
    if pace.changed.requests or pace.changed.tokens then
      pace.changed.requests, pace.changed.tokens = pace.rpm > 0, pace.tpm > 0
      set = {'paced', int(now), 'window', table.concat(window_of(pace), ' ')}
    end
    for field, is_changed in pairs(pace.changed) do
      if is_changed and pace[field] == nil then
        gone[#gone + 1] = field
      elseif is_changed then
        local value = pace[field]
        set[#set + 1], set[#set + 2] = field, type(value) == 'number' and string.format('%.14g', value) or value
      end
    end
    if #set > 0 then redis.call('HSET', key, unpack(set)) end
    if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
    pace.changed = {}
  end
end
