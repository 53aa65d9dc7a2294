-- move: let jobs that wait in one lane wait in another, which may answer them too. They keep their place by their score, but
-- from a siding they go to the front: their place was by need.
--
-- ARGV[4]  flow they leave
-- ARGV[5]  flow they go to, of the same batch
-- ARGV[6]  what the flow is noted as: "movable" (its jobs name fallbacks) or "spread" (their lanes are equals), or "last"
--   when they may go nowhere from there: it is not noted then
-- ARGV[7…] ids; with none, a flow that is empty is only forgotten
--
-- Returns {seq, how many moved}
-- Only what is due and nobody has claimed moves. Nothing leaves a parked flow or enters one, and a cancelled batch stays
-- where it is: what waits for money waits, whatever lane it is in. No money moves: what is waiting holds none.
local from, goal, kind = ARGV[4], ARGV[5], ARGV[6]
local _, batch = parts(goal)
local moved = 0

local function is_bound()
  return redis.call('HEXISTS', P .. 'parking', from) == 1 or redis.call('HEXISTS', P .. 'parking', goal) == 1
    or redis.call('HEXISTS', P .. 'batch:' .. batch, 'cancelled') == 1
end

if #ARGV > 6 and from ~= goal and not is_bound() then
  for i = 7, #ARGV do
    local score = redis.call('ZSCORE', from, ARGV[i])
    if score and tonumber(score) <= now and redis.call('EXISTS', 'arq:in-progress:' .. ARGV[i]) == 0 then
      redis.call('ZREM', from, ARGV[i])
      redis.call('ZADD', goal, is_siding(from) and int(now) or score, ARGV[i])
      moved = moved + 1
    end
  end
  if moved > 0 then
    take_in(goal, kind)
    open(goal)
  end
end
if redis.call('EXISTS', from) == 0 then redis.call('SREM', P .. (kind == 'last' and 'movable' or kind), from) end
return {seq, moved}
