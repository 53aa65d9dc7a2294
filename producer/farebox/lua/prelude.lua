-- prelude: stands before every verb. Guards the ledger's identity, reads the server's clock, opens flows, rings bells.
--
-- KEYS[1]  <ns>:ledger
-- ARGV[1]  prefix "<ns>:"
-- ARGV[2]  the epoch the caller knows; "" when it knows none yet; "!" to speak to whatever is there, which only those
--          may who let nothing be sent: settle and reassert after a loss, book, reset, the limit of who adopts
-- ARGV[3]  the highest seq the caller has seen: an older ledger has lost writes
--
-- Errors: NOLEDGER, LEDGERLOST. Nothing is written before they are raised, but the field `lost` of the ledger when the
-- caller proves that writes are gone: it refuses everybody, also who comes later and remembers nothing, until `adopt`.
-- A replica proves nothing, for it may be behind: then its own refusal to write is the answer.
local ARGV = ARGV  -- a local is found faster than a global
local P = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local SEQUENCE_END = 1e12

local ledger = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'clock', 'lease', 'lost')
if ARGV[2] ~= '!' then
  local function note(why, refusal)  -- the first one to notice says why; a full server must not hide it
    local noted = redis.pcall('HSETNX', KEYS[1], 'lost', why)
    if type(noted) == 'table' and string.find(noted.err or '', 'READONLY', 1, true) then return noted end
    return refusal
  end
  local known = 'epoch ' .. ARGV[2] .. ' at seq ' .. ARGV[3] .. ' was'
  if not ledger[1] then
    if ARGV[2] == '' then return redis.error_reply('NOLEDGER none yet') end
    local why = 'nothing where ' .. known
    return note(why, redis.error_reply('NOLEDGER ' .. why))
  end
  if ARGV[2] ~= '' and ARGV[2] ~= ledger[1] then
    return redis.error_reply('LEDGERLOST epoch ' .. ledger[1] .. ' where ' .. known)
  end
  if ledger[5] then return redis.error_reply('LEDGERLOST ' .. ledger[5]) end
  if tonumber(ledger[2] or 0) < tonumber(ARGV[3]) then
    local why = 'seq ' .. (ledger[2] or 0) .. ' where ' .. ARGV[3] .. ' was'
    return note(why, redis.error_reply('LEDGERLOST ' .. why))
  end
end
local seq = tonumber(ledger[2] or 0) + 1
local written = {'seq', string.format('%.0f', seq), 'clock', now}
local lease_ms = tonumber(ledger[4] or 30000)
if ledger[3] and now - tonumber(ledger[3]) > lease_ms / 2 then  -- away for longer than a renewal and its tick may take
  written[5], written[6] = 'grace', now + lease_ms
end
redis.call('HSET', KEYS[1], unpack(written))

local function int(n) return string.format('%.0f', n) end

local SLICE = 4000  -- Lua can unpack only some thousand values

local function each(list, act)
  for from = 1, #list, SLICE do
    act(unpack(list, from, math.min(from + SLICE - 1, #list)))
  end
end

local function read(list, act)  -- what `act` answers for each of a list, which may be long
  if #list > 0 and #list <= SLICE then return act(unpack(list)) end
  local found = {}
  each(list, function(...)
    for _, value in ipairs(act(...)) do found[#found + 1] = value end
  end)
  return found
end

local parted = {}  -- by flow

local function parts(flow)  -- priority, batch, lane, and whether it is a siding, which says so after its batch
  local known = parted[flow]
  if not known then
    local priority, batch, aside, lane = string.match(string.sub(flow, #P + 6), '^(%d):([^:+]*)([^:]*):(.+)$')
    known = {tonumber(priority), batch, lane, aside ~= ''}
    parted[flow] = known
  end
  return known[1], known[2], known[3], known[4]
end

local function is_siding(flow)
  local _, _, _, is_so = parts(flow)
  return is_so
end

local function ring(kind, name)
  local bell = P .. 'bell:' .. kind .. ':' .. name
  if redis.call('LLEN', bell) < 4 then
    redis.call('RPUSH', bell, '1')
    redis.call('PEXPIRE', bell, 60000)
  end
end

local function open(flow)  -- the flow has work now: claims may find it
  if redis.call('HEXISTS', P .. 'parking', flow) == 1 then return end
  local priority, batch, lane = parts(flow)
  if redis.call('HEXISTS', P .. 'batch:' .. batch, 'cancelled') == 1 then return end
  local opened = P .. 'open:' .. lane
  if not redis.call('ZSCORE', opened, flow) then  -- level with the flow of its priority that has had least
    local band = (9 - priority) * 1e14
    local least = redis.call('ZRANGEBYSCORE', opened, int(band), '(' .. int(band + 1e14), 'WITHSCORES', 'LIMIT', 0, 1)[2]
    redis.call('ZADD', opened, least or int(band), flow)
  end
  ring('lane', lane)
  ring('batch', batch)
end

local function take_in(flow, kind)  -- jobs move into a flow, which may be new, and its lane too; "last": they go no further
  local _, batch, lane = parts(flow)
  redis.call('SADD', P .. 'flows:' .. batch, flow)
  if kind ~= 'last' then redis.call('SADD', P .. kind, flow) end
  if redis.call('SADD', P .. 'lanes', lane) == 1 then redis.call('PUBLISH', P .. 'control', 'lane ' .. lane) end
end

local function later(flow, due)  -- the flow has work at `due` ms
  local _, _, lane = parts(flow)
  local known = redis.call('ZSCORE', P .. 'wait:' .. lane, flow)
  if not known or tonumber(known) > due then
    redis.call('ZADD', P .. 'wait:' .. lane, int(due), flow)
  end
end

local function unpark(flow)
  local parked = redis.call('HGET', P .. 'parking', flow)
  if not parked then return end
  local scope = string.match(parked, '^([^\t]*)')
  redis.call('HDEL', P .. 'parking', flow)
  redis.call('ZREM', P .. 'parked:' .. scope, flow)
  return scope
end

local function stop_waiting(flow)  -- the job it parked for is gone: it waits no more, and nobody waits for it
  local limit = unpark(flow)
  if limit and redis.call('GET', P .. 'starved:' .. limit) == flow then redis.call('DEL', P .. 'starved:' .. limit) end
  return limit
end
