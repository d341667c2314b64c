-- Renews or releases a lease, if the caller still has it. KEYS: state.
-- ARGV: plan digest, part, holder, time (see clock.lua), seconds from now to the new end, 1 to release the lease so that
-- the start does not count as an attempt.
-- Returns 1 if the caller still had the lease.
local state = redis.call('HMGET', KEYS[1], 'plan', 'f' .. ARGV[2])
if state[1] ~= ARGV[1] or not state[2] then
  return 0
end
local attempts, sent, holder = string.match(state[2], '^%S+ (%d+) (%d+) (%S+)$')
if holder ~= ARGV[3] then
  return 0
end
if ARGV[6] == '1' then
  attempts = attempts - 1
  holder = '-'
end
redis.call('HSET', KEYS[1], 'f' .. ARGV[2], string.format('%.3f %d %d %s', clock(ARGV[4]) + ARGV[5], attempts, sent, holder))
return 1
