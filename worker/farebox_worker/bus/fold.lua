-- fold: sum the oldest entries of the journal into the checkpoints, and trim them, in one step.
--
-- ARGV[4]  most entries to fold; fewer when they have some thousand rows
-- ARGV[5]  rows to keep: an entry is folded when as many come after it
-- ARGV[6]  ms to keep: an entry is folded when it is older
--
-- Returns {seq, entries folded}
-- Invariant: checkpoint + journal = the counters, before and after. A batch that was forgotten and came
-- again has counters since a row of the journal, and a checkpoint since the same row.
local LIFE = {'spent', 'overrun', 'calls', 'input_tokens', 'output_tokens', 'unpriced'}  -- what a reset zeroes
local OF_DAY = {spent = true, unconfirmed = true, calls = true, input_tokens = true, output_tokens = true}
local total = tonumber(redis.call('HGET', KEYS[1], 'journal') or 0)
local scopes, days, since, is_wiped = {}, {}, {}, false
local done, rows, folded = {}, 0, 0
local MOST_ROWS = 2000

local function add(map, key, field, amount)
  if not map[key] then map[key] = {} end
  map[key][field] = (map[key][field] or 0) + amount
end

local function begins(scope)  -- rows after this one count; a batch that was forgotten counts no more
  if string.sub(scope, 1, 6) ~= 'batch:' then return 0 end
  if not since[scope] then
    local key = P .. 'scope:' .. scope
    since[scope] = tonumber(redis.call('HGET', key, 'since') or (redis.call('EXISTS', key) == 1 and 0 or math.huge))
  end
  return since[scope]
end

local function wipe()
  is_wiped = true
  for _, tally in pairs(scopes) do
    for _, field in ipairs(LIFE) do tally[field] = nil end
  end
end

local sums, latest = {}, {}  -- of the rows of one entry, by set, day and life; when all batches of a set had begun

local function sum_of(set, day, number)  -- a row from before a batch began stands alone
  if not latest[set] then
    latest[set] = 0
    for scope in string.gmatch(set, '[^\t]+') do latest[set] = math.max(latest[set], begins(scope)) end
  end
  local key = set .. '\t' .. day .. (number > latest[set] and '' or '\t' .. number)
  if not sums[key] then sums[key] = {set = set, date = date_of(tonumber(day)), number = number, changes = {}} end
  return sums[key].changes
end

local function spread()
  for _, sum in pairs(sums) do
    for scope in string.gmatch(sum.set, '[^\t]+') do
      local is_alive = sum.number > begins(scope)
      for field, amount in pairs(sum.changes) do
        if is_alive then add(scopes, scope, field, amount) end
        if OF_DAY[field] then add(days, sum.date, field .. ' ' .. scope, amount) end
      end
    end
  end
  sums = {}
end

local ROW = '^(%a)\t[^\t]*' .. string.rep('\t(%d*)', 8)
local SPENT = {s = true, l = true, c = true, b = true}
local OWED = {d = 1, r = -1, c = -1}

local function fold_row(row, sets, entry_day, number)
  local kind, set, day, amount, hold, tokens_in, tokens_out, calls, unpriced = string.match(row .. '\t\t\t\t\t\t\t\t\t', ROW)
  if kind == 'z' then
    spread()
    return wipe()
  end
  if not sets[set] then return end
  local sum = sum_of(sets[set], day ~= '' and day or entry_day, number)
  local function count(field, n)
    if n and n ~= 0 then sum[field] = (sum[field] or 0) + n end
  end
  amount, hold = tonumber(amount) or 0, tonumber(hold)
  count('unconfirmed', kind == 'l' and hold and -hold or amount * (OWED[kind] or 0))
  if not SPENT[kind] then return end
  count('spent', amount)
  count('calls', tonumber(calls))
  count('input_tokens', tonumber(tokens_in))
  count('output_tokens', tonumber(tokens_out))
  count('unpriced', tonumber(unpriced))
  if (kind == 's' or kind == 'l') and hold then count('overrun', math.max(0, amount - hold)) end
end

local function fold_entry(values)
  local sets, first, n, day = {}, 5, tonumber(values[2]), values[4]
  while string.match(values[first] or '', '^s%d+$') do
    sets[string.sub(values[first], 2)] = values[first + 1]
    first = first + 2
  end
  local count = (#values - first + 1) / 2
  for i = first, #values, 2 do fold_row(values[i + 1], sets, day, n - count + (i - first) / 2 + 1) end
  spread()
  rows, folded = n, folded + count
end

local function is_due(entry)
  if not entry then return false end
  local age = now - tonumber(string.match(entry[1], '^%d+'))
  return age > tonumber(ARGV[6]) or total - tonumber(entry[2][2]) >= tonumber(ARGV[5])
end

if is_due(redis.call('XRANGE', P .. 'journal', '-', '+', 'COUNT', 1)[1]) then
  for _, entry in ipairs(redis.call('XRANGE', P .. 'journal', '-', '+', 'COUNT', ARGV[4])) do
    if not is_due(entry) or folded >= MOST_ROWS then break end
    fold_entry(entry[2])
    done[#done + 1] = entry[1]
  end
end
if #done == 0 then return {seq, 0} end

if is_wiped then
  for _, scope in ipairs(redis.call('SMEMBERS', P .. 'scopes')) do
    redis.call('HDEL', P .. 'checkpoint:scope:' .. scope, unpack(LIFE))
  end
end
for scope, tally in pairs(scopes) do
  local key, life = P .. 'checkpoint:scope:' .. scope, begins(scope)
  if tonumber(redis.call('HGET', key, 'since') or 0) ~= life then
    redis.call('DEL', key)
    redis.call('HSET', key, 'since', int(life))
  end
  for field, amount in pairs(tally) do redis.call('HINCRBY', key, field, int(amount)) end
end
for date, tally in pairs(days) do
  for field, amount in pairs(tally) do redis.call('HINCRBY', P .. 'checkpoint:' .. date, field, int(amount)) end
  redis.call('PEXPIRE', P .. 'checkpoint:' .. date, 400 * 86400000)
  redis.call('HSET', P .. 'checkpoint', 'day ' .. date, 1)
end
for _, scope in ipairs(redis.call('SRANDMEMBER', P .. 'scopes', 20)) do  -- here and there, forget what retention took
  if begins(scope) == math.huge and redis.call('EXISTS', P .. 'limit:' .. scope, P .. 'limit:day:' .. scope,
    P .. 'limit:month:' .. scope) == 0 then
    redis.call('SREM', P .. 'scopes', scope)
    redis.call('DEL', P .. 'checkpoint:scope:' .. scope)
  end
end
redis.call('HSET', P .. 'checkpoint', 'until', done[#done], 'rows', int(rows))
redis.call('XDEL', P .. 'journal', unpack(done))
return {seq, #done}
