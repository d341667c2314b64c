-- Counts a part exactly once. KEYS: state, done, failed, groups (see shares.lua), counters.
-- ARGV: plan digest, part, scored rows, rejected rows, reason for the failure or '', time (see clock.lua), seconds after
-- which the message of the next part is considered lost, number of failures at which the job stops, seconds until the
-- keys expire, job, then the arguments of BITFIELD that add the part to the counters.
-- Returns {next part to dispatch or -1, parts left, reason for stopping or '', 1 if this call counted the part, error of
-- the counters or ''}.
-- Only the call that counts the part receives a next part.
local state = redis.call('HMGET', KEYS[1], 'plan', 'parts', 'done', 'rows', 'rejected', 'cursor', 'budget', 'rebuilt',
  'stopped', 'failures', 'f' .. ARGV[2], 'c' .. ARGV[2], 'cost', 'owed', 'listed', 'group', 'rank')
if not state[1] then
  return redis.error_reply('LOST')
end
if state[1] ~= ARGV[1] then
  return redis.error_reply('ANOTHERPLAN')
end
local parts, done, stopped = tonumber(state[2]), tonumber(state[3]), state[9]
if stopped == 'closed' then
  if state[12] then
    shares(KEYS[4]).settle(state[12], clock(ARGV[6]))
    redis.call('HDEL', KEYS[1], 'c' .. ARGV[2])
  end
  return {-1, parts - done, stopped, 0, ''}
end
local in_turn = state[11]
local of_part = {}
for place, kind in ipairs({'f', 'u', 'r', 'c', 'w'}) do
  of_part[place] = kind .. ARGV[2]
end
redis.call('HDEL', KEYS[1], unpack(of_part))
if redis.call('SETBIT', KEYS[2], ARGV[2], 1) == 1 then
  return {-1, parts - done, stopped or '', 0, ''}
end
done = done + 1
if done == 1 then
  redis.call('EXPIRE', KEYS[2], ARGV[9])
end
if not in_turn then -- this ledger did not dispatch the part, so the cursor may reach parts that are done
  state[8] = '1'
  redis.call('HSET', KEYS[1], 'rebuilt', 1)
end
local rejected, failures, cursor = state[5] + ARGV[4], tonumber(state[10]), tonumber(state[6])
local changes = {'done', done, 'rows', string.format('%.0f', state[4] + ARGV[3])}
if ARGV[5] ~= '' then
  failures = failures + 1
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[5])
  redis.call('EXPIRE', KEYS[3], ARGV[9])
  changes[#changes + 1] = 'failures'
  changes[#changes + 1] = failures
end
if tonumber(ARGV[4]) > 0 then
  changes[#changes + 1] = 'rejected'
  changes[#changes + 1] = string.format('%.0f', rejected)
end
if not stopped and done < parts then
  stopped = rejected > tonumber(state[7]) and 'budget' or failures >= tonumber(ARGV[8]) and 'failures' or nil
  if stopped then
    changes[#changes + 1] = 'stopped'
    changes[#changes + 1] = stopped
  end
end
local now = clock(ARGV[6])
local next = -1
if not stopped then
  if state[8] and cursor < parts then
    cursor = undone(KEYS[2], cursor)
  end
  if cursor < parts then
    next = cursor
    changes[#changes + 1] = 'f' .. next
    changes[#changes + 1] = string.format('%.3f 0 1 -', now + ARGV[7])
    cursor = cursor + 1
  end
  changes[#changes + 1] = 'cursor'
  changes[#changes + 1] = cursor
end
if state[12] then -- the part was chosen, and its group charged with the seconds that were expected
  local ended = shares(KEYS[4]).ended(state[12], now)
  changes[#changes + 1] = 'cost'
  changes[#changes + 1] = string.format('%.3f', state[13] and 0.5 * state[13] + 0.5 * ended.took or ended.took)
  if ended.charge then
    local owed = ended.took - ended.charge
    if next >= 0 and math.abs(owed) < 0.1 * ended.charge then -- the next part is charged with the difference
      changes[#changes + 1] = 'owed'
      changes[#changes + 1] = string.format('%.3f', (tonumber(state[14]) or 0) + owed)
    else
      shares(KEYS[4]).add(ended.group, owed / ended.weight)
    end
  end
end
if next >= 0 and not state[15] then
  shares(KEYS[4]).list(ARGV[10], state[16] or '', state[17] or 0, ARGV[9])
  changes[#changes + 1] = 'listed'
  changes[#changes + 1] = 1
end
redis.call('HSET', KEYS[1], unpack(changes))
local added = redis.pcall('BITFIELD', KEYS[5], unpack(ARGV, 11)) -- metrics never make a part fail
return {next, parts - done, stopped or '', 1, added.err or ''}
