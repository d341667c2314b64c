-- Leases a part: the part that the message names, or the part that is due among the parts of all jobs.
-- KEYS: state, done, groups (see shares.lua). ARGV: plan digest, part, time (see clock.lua), length of the lease (s),
-- holder, 1 if the holder's earlier start ended in a transient error (such a start does not count as an attempt), job,
-- 1 to lease the part that is due, weights of groups ('name=weight,...'), seconds that a part is expected to take if no
-- part of its job has ended, seconds until the keys of the groups expire. If the job is '', the message names a job
-- without a ledger; then the script returns '' as the job if no part is due.
-- Returns {what to do, attempt, parts left, 1 if a result may exist, reject budget, job, plan digest, part, trace}. What to do
-- is 'run', 'done' (the part was already finished), 'busy' (another holder has the lease), 'stopped', 'late' (stopped by
-- the deadline of the job), or 'unknown' (the part is not due yet and will be dispatched again).
-- The field c<part> of a part that was chosen is '<seconds charged to its group, or -> <time (s) of the start> <weight>
-- <group> <job and part of the message, or - and 0>'. The field m<part> says which part its message was used for:
-- '<holder> <job> <part>'. The field w<part> is set if the part waits for its own message.
local part = tonumber(ARGV[2])
local names = {'plan', 'parts', 'done', 'stopped', 'rebuilt', 'f' .. part, 'budget', 'group', 'rank', 'deadline', 'cost',
  'owed', 'listed', 'trace', 'c' .. part, 'm' .. part, 'w' .. part}
local own = {}
for place, value in ipairs(redis.call('HMGET', KEYS[1], unpack(names))) do
  own[names[place]] = value
end
if not own.plan and ARGV[7] ~= '' then
  return redis.error_reply('LOST')
end
if own.plan ~= ARGV[1] and ARGV[7] ~= '' then
  return redis.error_reply('ANOTHERPLAN')
end
local now, holder, all = clock(ARGV[3]), ARGV[5], shares(KEYS[3])
local function answer(to_do, attempts, field, result, budget, job, number)
  return {to_do, attempts, field.parts - field.done, result, budget, job or ARGV[7], field.plan, number or part,
    field.trace or ''}
end
local function late(field)
  return field.deadline and tonumber(field.deadline) <= now and tonumber(field.done) < tonumber(field.parts)
end
local function flight(text)
  local until_s, attempts, sent, by = string.match(text or '', '^(%S+) (%d+) (%d+) (%S+)$')
  return {until_s = tonumber(until_s), attempts = tonumber(attempts), sent = sent, by = by}
end
local function weight_of(group)
  for name, weight in string.gmatch(ARGV[9], '([^=,]+)=(%d+)') do
    if name == group then
      return tonumber(weight)
    end
  end
  return 1
end
-- Leases a part of a job. `chosen` is what `choose` returned, or nil if the message names the part.
local function run(key, field, job, number, chosen)
  local known = flight(field['f' .. number])
  if ARGV[6] ~= '1' or known.by ~= holder then
    known.attempts = known.attempts + 1
  end
  local changes = {'f' .. number, string.format('%.3f %d %d %s', now + ARGV[4], known.attempts, known.sent, holder)}
  if chosen then
    local weight, charge = weight_of(chosen.group), '-'
    if not chosen.alone then
      charge = (tonumber(field.cost) or tonumber(ARGV[10])) + (tonumber(field.owed) or 0)
      all.add(chosen.group, charge / weight)
      charge = string.format('%.3f', charge - (tonumber(field.owed) or 0))
      if field.owed then
        redis.call('HDEL', key, 'owed')
      end
    end
    local elsewhere = ARGV[7] ~= '' and (job ~= ARGV[7] or number ~= part)
    changes[#changes + 1] = 'c' .. number
    changes[#changes + 1] = string.format('%s %.3f %d %s %s %d', charge, now, weight, chosen.group,
      elsewhere and ARGV[7] or '-', elsewhere and part or 0)
    if elsewhere then
      redis.call('HSET', KEYS[1], 'm' .. part, string.format('%s %s %d', holder, job, number))
    end
  end
  redis.call('HSET', key, unpack(changes))
  if known.attempts > 1 or field['w' .. number] then
    redis.call('HDEL', key, 'u' .. number, 'r' .. number, 'w' .. number)
  end
  return answer('run', known.attempts, field, (field.rebuilt or known.attempts > 1) and 1 or 0, tonumber(field.budget),
    job, number)
end
local function read_all(key)
  local found, field = redis.call('HGETALL', key), {}
  for i = 1, #found, 2 do
    field[found[i]] = found[i + 1]
  end
  return field
end

if not own.stopped and late(own) then
  redis.call('HSET', KEYS[1], 'stopped', 'deadline')
  own.stopped = 'deadline'
end
local mine = flight(own['f' .. part])
local waits = mine.by == '-' and not own['w' .. part] and not own.stopped
if ARGV[8] == '1' and ARGV[6] ~= '1' and mine.by ~= holder then
  local before, job, number = string.match(own['m' .. part] or '', '^(%S+) (%S+) (%d+)$')
  if before == holder then -- the message is delivered again, because its process died
    local field = read_all(all.state(job))
    if field.plan and not field.stopped and flight(field['f' .. number]).by == holder then
      return run(all.state(job), field, job, tonumber(number), nil)
    end
  end
  local chosen = all.choose(function(job)
    if job == ARGV[7] and waits then
      return part, own
    end
    local field = read_all(all.state(job))
    if not field.plan or field.stopped or late(field) then
      return nil
    end
    local least
    for name, text in pairs(field) do
      local number = tonumber(string.match(name, '^f(%d+)$'))
      if number and (not least or number < least) and flight(text).by == '-' and not field['w' .. number] then
        least = number
      end
    end
    return least, field
  end)
  if chosen then
    if waits and not own.listed and chosen.job ~= ARGV[7] then -- the part was dispatched by an earlier release
      all.list(ARGV[7], own.group or '', own.rank or 0, ARGV[11])
      redis.call('HSET', KEYS[1], 'listed', 1)
    end
    return run(all.state(chosen.job), chosen.field, chosen.job, chosen.part, chosen)
  end
end
if ARGV[7] == '' then
  return {'unknown', 0, 1, 0, 0, '', '', 0, ''}
end
if own.stopped then
  return answer(own.stopped == 'deadline' and 'late' or 'stopped', 0, own, 0, 0)
end
if not own['f' .. part] then
  return answer(redis.call('GETBIT', KEYS[2], part) == 1 and 'done' or 'unknown', 0, own, 0, 0)
end
if mine.by ~= '-' and mine.by ~= holder and mine.until_s > now then
  return answer('busy', mine.attempts, own, 0, 0)
end
if ARGV[8] == '1' and ARGV[6] ~= '1' and own['w' .. part] then
  return answer('busy', mine.attempts, own, 0, 0)
end
return run(KEYS[1], own, ARGV[7], part, nil)
