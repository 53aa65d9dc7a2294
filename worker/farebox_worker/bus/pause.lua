-- pause: nothing of a lane, or of a provider, is claimed until a time. What waits there waits on; nothing is failed for it.
--
-- ARGV[4]  of whom: "lane:<lane>" or "provider:<id>", which covers lanes that are to come too
-- ARGV[5]  for how long, in ms; 0 resumes
-- ARGV[6]  why
-- ARGV[7]  by whom: "operator" or "provider"
-- ARGV[8]  for a refusal, ms since the refused call was sent; else ""
-- ARGV[9]  for a refusal, what its pause begins to grow from, in ms
--
-- Returns {seq, the time it is paused until in ms, or 0, why, by whom}
-- The later of two pauses wins, but an operator may shorten an operator's own. Resuming ends every pause.
-- Refusals without an answer between them lengthen the pause, doubling it up to an hour; calls that were sent before the
-- last one counted say nothing new. After a provider's own pause one job goes first, and its answer lets the others go.
local MOST_MS = 3600000
local of, pause_ms, by = ARGV[4], tonumber(ARGV[5]), ARGV[7]
local kind, name = string.match(of, '^(%a+):(.*)$')
local key = P .. of
local before = redis.call('HMGET', key, 'paused_until', 'paused_why', 'paused_by', 'refusals', 'refused')

if ARGV[8] ~= '' then
  local rounds = tonumber(before[4] or 0) or 0
  if now - tonumber(ARGV[8]) > (tonumber(before[5] or 0) or 0) or rounds == 0 then
    rounds = rounds + 1
    redis.call('HSET', key, 'refusals', rounds, 'refused', int(now))
  end
  pause_ms = math.min(MOST_MS, math.max(pause_ms, tonumber(ARGV[9]) * 2 ^ math.min(rounds - 1, 30)))
end

local ends, until_ms = tonumber(before[1] or 0) or 0, now + pause_ms
if pause_ms > 0 and kind == 'provider' and by == 'provider' then redis.call('HSET', key, 'probing', 1) end
if pause_ms > 0 and ends >= until_ms and not (by == 'operator' and before[3] == by) then
  return {seq, int(ends), before[2] or '', before[3] or ''}
end
if pause_ms == 0 then
  redis.call('HDEL', key, 'paused_until', 'paused_why', 'paused_by', 'refusals', 'refused', 'probing', 'probe')
  until_ms = 0
else
  redis.call('HSET', key, 'paused_until', int(until_ms), 'paused_why', ARGV[6], 'paused_by', by)
end

for _, lane in ipairs(kind == 'lane' and {name} or redis.call('SMEMBERS', P .. 'lanes')) do
  if kind == 'lane' or string.match(lane, '^[^:]*') == name then
    if pause_ms > 0 then redis.call('PUBLISH', P .. 'control', 'pause ' .. lane) end
    if until_ms < ends or pause_ms == 0 then  -- whoever sleeps until the later time must look again
      ring('lane', lane)
      redis.call('PUBLISH', P .. 'control', 'lane ' .. lane)
    end
  end
end
return {seq, int(until_ms), ARGV[6], by}
