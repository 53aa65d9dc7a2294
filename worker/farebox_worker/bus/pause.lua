-- pause: nothing of a lane is claimed until a time; the later of two pauses wins.
--
-- ARGV[4]  lane
-- ARGV[5]  for how long, in ms; 0 resumes the lane
-- ARGV[6]  why
--
-- Returns {seq, the time it is paused until in ms, or 0}
local key = P .. 'lane:' .. ARGV[4]
local pause_ms = tonumber(ARGV[5])
if pause_ms == 0 then
  redis.call('HDEL', key, 'paused_until', 'paused_why')
  ring('lane', ARGV[4])
  redis.call('PUBLISH', P .. 'control', 'lane ' .. ARGV[4])
  return {seq, 0}
end
local until_ms = now + pause_ms
local before = tonumber(redis.call('HGET', key, 'paused_until') or 0)
if until_ms > before then
  redis.call('HSET', key, 'paused_until', int(until_ms), 'paused_why', ARGV[6])
  redis.call('PUBLISH', P .. 'control', 'pause ' .. ARGV[4])
end
return {seq, math.max(until_ms, before)}
