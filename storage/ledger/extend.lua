-- Renews or releases a lease, if the caller still has it. KEYS: state, groups (see shares.lua).
-- ARGV: plan digest, part, holder, time (see clock.lua), seconds from now to the new end, 1 to release the lease so that
-- the start does not count as an attempt, 1 to let the part wait for its own message, job, seconds until the keys of the
-- groups expire.
-- Returns 1 if the caller still had the lease.
local state = redis.call('HMGET', KEYS[1], 'plan', 'f' .. ARGV[2], 'c' .. ARGV[2], 'group', 'rank')
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
  redis.call('HDEL', KEYS[1], 'u' .. ARGV[2], 'r' .. ARGV[2], 'c' .. ARGV[2])
  local charge, begun, weight, group = string.match(state[3] or '', '^(%S+) (%S+) (%d+) (%S*) ')
  if charge and charge ~= '-' then
    shares(KEYS[2]).add(group, (math.max(0, clock(ARGV[4]) - begun) - charge) / weight)
  end
  if ARGV[7] == '1' then
    redis.call('HSET', KEYS[1], 'w' .. ARGV[2], 1)
  else
    shares(KEYS[2]).list(ARGV[8], state[4] or '', state[5] or 0, ARGV[9])
    redis.call('HSET', KEYS[1], 'listed', 1)
  end
end
redis.call('HSET', KEYS[1], 'f' .. ARGV[2], string.format('%.3f %d %d %s', clock(ARGV[4]) + ARGV[5], attempts, sent, holder))
return 1
