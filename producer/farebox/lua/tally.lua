-- tally: stands before the verbs that count money. Sums a script's changes, writes each counter once, in the scopes and
-- in the windows of the UTC day and month, and journals every booking.
--
-- KEYS[1]  <ns>:ledger
-- Amounts are nano-dollars, integers below 2^53; they move by HINCRBY only.
-- A set is the names of scopes, joined by tabs. A day counts from 1970-01-01; a window books what was spent on its day,
-- and keeps what became unconfirmed on its day until that is settled. What is held belongs to no window.
-- A row of the journal has the attempt's token as field, and as value, by tabs: kind (see farebox.journal), job digest,
-- number of its set in the entry, day if it is not the entry's, amount, hold, input tokens, output tokens, calls,
-- unpriced, note. Zeros and tabs at the end are left out. `n` counts the ledger's rows up to this entry, `d` is its day.
local today = math.floor(now / 86400000)
local WINDOWS = {day = {10, 40 * 86400000}, month = {7, 400 * 86400000}}  -- length of the date, TTL in ms
local ENTRY_ROWS = 500
local tallies = {}  -- by day and set
local entries = {}

local function date_of(day)  -- "2026-11-22"; Howard Hinnant's civil_from_days, for days from 1970 on
  local shifted = day + 719468
  local era = math.floor(shifted / 146097)
  local of_era = shifted - era * 146097
  local year = math.floor(
    (of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local from_march = math.floor((5 * of_year + 2) / 153)
  local month = from_march < 10 and from_march + 3 or from_march - 9
  return string.format('%04d-%02d-%02d', year + era * 400 + (month <= 2 and 1 or 0), month,
    of_year - math.floor((153 * from_march + 2) / 5) + 1)
end

local date_today = date_of(today)
local this = {day = date_today, month = string.sub(date_today, 1, 7)}

local function bump(map, key, field, amount)
  local tally = map[key]
  if not tally then
    tally = {}
    map[key] = tally
  end
  tally[field] = (tally[field] or 0) + amount
end

local function tally_of(set, day)  -- what changes for a set of scopes, booked on that day
  local sets = tallies[day]
  if not sets then
    sets = {}
    tallies[day] = sets
  end
  local tally = sets[set]
  if not tally then
    tally = {spent = 0, held = 0, unconfirmed = 0, calls = 0, input_tokens = 0, output_tokens = 0}
    sets[set] = tally
  end
  return tally
end

local function count(set, field, amount, day)  -- of today, if no day is said
  local tally = tally_of(set, day or today)
  tally[field] = (tally[field] or 0) + amount
end

local function short(n) return n == 0 and '' or int(n) end

local function post(token, kind, id, set, day, amount, rest)  -- a row of the journal; a tab before each field of `rest`
  local entry = entries[#entries]
  if not entry or #entry.rows >= 2 * ENTRY_ROWS then
    entry = {rows = {}, sets = {}, numbers = {}}
    entries[#entries + 1] = entry
  end
  local number = entry.numbers[set]
  if not number and set ~= '' then
    number = #entry.sets / 2 + 1
    entry.numbers[set] = number
    entry.sets[2 * number - 1], entry.sets[2 * number] = 's' .. number, set
  end
  local row = kind .. '\t' .. string.sub(id, #P + 1) .. '\t' .. (number or '') .. '\t' ..
    (day == today and '' or int(day)) .. '\t' .. amount .. (rest or '')
  local ends = #row
  while string.byte(row, ends) == 9 do ends = ends - 1 end
  if ends < #row then row = string.sub(row, 1, ends) end
  local rows = entry.rows
  local n = #rows
  rows[n + 1], rows[n + 2] = token, row
end

local function write_journal()
  for _, entry in ipairs(entries) do
    local fields = {'n', redis.call('HINCRBY', KEYS[1], 'journal', #entry.rows / 2), 'd', int(today)}
    local before = #fields
    for i = 1, #entry.sets do fields[before + i] = entry.sets[i] end
    before = before + #entry.sets
    for i = 1, #entry.rows do fields[before + i] = entry.rows[i] end
    redis.call('XADD', P .. 'journal', '*', unpack(fields))
  end
  entries = {}
end

local function by_scope()  -- what the tallies are, per scope and per window
  local scopes, windows = {}, {}
  for day, sets in pairs(tallies) do
    local date = day == today and date_today or date_of(day)
    local names = {}
    for per, of in pairs(WINDOWS) do names[#names + 1] = per .. ':' .. string.sub(date, 1, of[1]) end
    for set, tally in pairs(sets) do
      for scope in string.gmatch(set, '[^\t]+') do
        for field, amount in pairs(tally) do
          if amount ~= 0 then
            bump(scopes, scope, field, amount)
            if field == 'spent' or field == 'unconfirmed' then
              for i = 1, #names do bump(windows, names[i], field .. ' ' .. scope, amount) end
            end
          end
        end
      end
    end
  end
  tallies = {}
  return scopes, windows
end

local function keep_owing(scope, key)  -- a batch is not forgotten before its unconfirmed money is settled
  if tonumber(redis.call('HGET', key, 'unconfirmed')) ~= 0 then
    redis.call('PERSIST', key)
    return
  end
  local left = redis.call('PTTL', P .. scope)
  if left ~= -1 then redis.call('PEXPIRE', key, math.max(left, 86400000)) end
end

local function write_scope(scope, tally)
  local key = P .. 'scope:' .. scope
  local is_batch = string.sub(scope, 1, 6) == 'batch:'
  if is_batch and redis.call('EXISTS', key) == 0 then
    if (tally.held or 0) < 0 or (tally.unconfirmed or 0) < 0 then return end  -- its retention is over
    redis.call('HSET', key, 'since', redis.call('HGET', KEYS[1], 'journal') or 0)  -- rows before are of another life
  end
  for field, amount in pairs(tally) do
    if amount ~= 0 then redis.call('HINCRBY', key, field, int(amount)) end
  end
  if is_batch and (tally.unconfirmed or 0) ~= 0 then keep_owing(scope, key) end
end

local function write_books()  -- returns the limits under which money became free
  local scopes, windows = by_scope()
  local names, freed = {}, {}
  for scope, tally in pairs(scopes) do
    write_scope(scope, tally)
    names[#names + 1] = scope
    local spent, held, unconfirmed = tally.spent or 0, tally.held or 0, tally.unconfirmed or 0
    if spent + held + unconfirmed < 0 then freed[#freed + 1] = scope end
    for per, date in pairs((held < 0 or unconfirmed < 0) and this or {}) do
      local window = windows[per .. ':' .. date] or {}
      local change = (window['spent ' .. scope] or 0) + (window['unconfirmed ' .. scope] or 0)
      if change + held < 0 then freed[#freed + 1] = per .. ':' .. scope end
    end
  end
  each(names, function(...) redis.call('SADD', P .. 'scopes', ...) end)
  for name, window in pairs(windows) do
    local is_new = false
    for field, amount in pairs(window) do
      if amount ~= 0 and redis.call('HINCRBY', P .. 'window:' .. name, field, int(amount)) == amount then is_new = true end
    end
    if is_new then redis.call('PEXPIRE', P .. 'window:' .. name, WINDOWS[string.match(name, '^%a+')][2]) end
  end
  write_journal()
  return freed
end
