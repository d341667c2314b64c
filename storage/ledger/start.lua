-- Leases a part. KEYS: state, done. ARGV: plan digest, part, time (see clock.lua), length of the lease (s), holder,
-- 1 if the holder's earlier start ended in a transient error (such a start does not count as an attempt).
-- Returns {what to do, attempt, parts left, 1 if a result may exist, reject budget}. What to do is 'run', 'done' (the
-- part was already finished), 'busy' (another holder has the lease), 'stopped', or 'unknown' (the part is not due yet
-- and will be dispatched again).
local state = redis.call('HMGET', KEYS[1], 'plan', 'parts', 'done', 'stopped', 'rebuilt', 'f' .. ARGV[2],
  'budget', 'u' .. ARGV[2], 'r' .. ARGV[2])
if not state[1] then
  return redis.error_reply('LOST')
end
if state[1] ~= ARGV[1] then
  return redis.error_reply('ANOTHERPLAN')
end
local left = state[2] - state[3]
if state[4] then
  return {'stopped', 0, left, 0, 0}
end
if not state[6] then
  return {redis.call('GETBIT', KEYS[2], ARGV[2]) == 1 and 'done' or 'unknown', 0, left, 0, 0}
end
local now = clock(ARGV[3])
local deadline, attempts, sent, holder = string.match(state[6], '^(%S+) (%d+) (%d+) (%S+)$')
attempts = tonumber(attempts)
if holder ~= '-' and holder ~= ARGV[5] and tonumber(deadline) > now then
  return {'busy', attempts, left, 0, 0}
end
if ARGV[6] ~= '1' or holder ~= ARGV[5] then
  attempts = attempts + 1
end
redis.call('HSET', KEYS[1], 'f' .. ARGV[2], string.format('%.3f %d %d %s', now + ARGV[4], attempts, sent, ARGV[5]))
if state[8] or state[9] then
  redis.call('HDEL', KEYS[1], 'u' .. ARGV[2], 'r' .. ARGV[2])
end
return {'run', attempts, left, (state[5] or attempts > 1) and 1 or 0, tonumber(state[7])}
