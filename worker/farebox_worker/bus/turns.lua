-- turns: stands before claim. Processes that serve one batch each take turns in a lane that has room for few more calls:
-- else whoever settles first would claim again at once, and the others never.
--
-- <ns>:turns:<lane> holds who waits for room, by when that began: a batch, or "" for the processes that serve all of them.
-- These wait, but leave nothing to others: the flow that had least is theirs to serve too. Who is next is called, and has
-- until CALLED_MS to come; <ns>:turn:<lane> says who that is. Who does not come has to ask anew.
local CALLED_MS = 100

local function wait_for_turn(lane, batch)
  redis.call('ZADD', P .. 'turns:' .. lane, 'NX', int(now), batch)
  redis.call('PEXPIRE', P .. 'turns:' .. lane, 5000)  -- who waits asks every three seconds or sooner
end

local function had_turn(lane, batch)
  if redis.call('ZREM', P .. 'turns:' .. lane, batch) == 1 then return end
  if redis.call('GET', P .. 'turn:' .. lane) == batch then redis.call('DEL', P .. 'turn:' .. lane) end
end

local function call_next(lane, batch)
  redis.call('ZREM', P .. 'turns:' .. lane, batch)
  redis.call('SET', P .. 'turn:' .. lane, batch, 'PX', CALLED_MS)
  if batch == '' then ring('lane', lane) else ring('batch', batch) end
end

local function is_turn_of(lane, batch, outranks)  -- `outranks(rival)`: by how much, 0 for equals; nil when it has no work here
  local called = redis.call('GET', P .. 'turn:' .. lane)
  if called == batch then return true end
  if called and (outranks(called) or -1) >= 0 then return false end
  local is_behind = false
  for _, rival in ipairs(redis.call('ZRANGE', P .. 'turns:' .. lane, 0, 15)) do
    local by = rival ~= batch and outranks(rival)
    if not by then
      is_behind = is_behind or rival == batch
      if rival ~= batch then redis.call('ZREM', P .. 'turns:' .. lane, rival) end
    elseif by > 0 or by == 0 and not is_behind then
      call_next(lane, rival)
      return false
    end
  end
  return true
end
