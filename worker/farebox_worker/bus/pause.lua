-- pause: nothing of a lane is claimed until a time. What waits there waits on; nothing is failed for it.
--
-- ARGV[4]  lane
-- ARGV[5]  for how long, in ms; 0 resumes the lane
-- ARGV[6]  why
-- ARGV[7]  by whom: "operator" or "provider"
--
-- Returns {seq, the time it is paused until in ms, or 0, why, by whom}
-- The later of two pauses wins, but an operator may shorten an operator's own. Resuming ends every pause.
local lane, pause_ms, by = ARGV[4], tonumber(ARGV[5]), ARGV[7]
local key = P .. 'lane:' .. lane
local before = redis.call('HMGET', key, 'paused_until', 'paused_why', 'paused_by')
local ends, until_ms = tonumber(before[1] or 0), now + pause_ms
if pause_ms > 0 and ends >= until_ms and not (by == 'operator' and before[3] == by) then
  return {seq, int(ends), before[2] or '', before[3] or ''}
end
if pause_ms == 0 then
  redis.call('HDEL', key, 'paused_until', 'paused_why', 'paused_by')
  until_ms = 0
else
  redis.call('HSET', key, 'paused_until', int(until_ms), 'paused_why', ARGV[6], 'paused_by', by)
  redis.call('PUBLISH', P .. 'control', 'pause ' .. lane)
end
if until_ms < ends then  -- whoever sleeps until the later time must look again
  ring('lane', lane)
  redis.call('PUBLISH', P .. 'control', 'lane ' .. lane)
end
return {seq, int(until_ms), ARGV[6], by}
