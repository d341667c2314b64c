-- Counts a part once. KEYS: state, done, leases, attempts, failed.
-- ARGV: plan digest, part, rows, rejected, reason of the failure or ''.
-- Returns {next part to dispatch or -1, parts left}; only the first call for a part is given a next one.
local digest = redis.call('HGET', KEYS[1], 'plan')
if not digest then
  return redis.error_reply('LOST')
end
if digest ~= ARGV[1] then
  return redis.error_reply('ANOTHERPLAN')
end
local parts = tonumber(redis.call('HGET', KEYS[1], 'parts'))
local next = -1
if redis.call('SETBIT', KEYS[2], ARGV[2], 1) == 0 then
  redis.call('HINCRBY', KEYS[1], 'done', 1)
  redis.call('HINCRBY', KEYS[1], 'rows', ARGV[3])
  redis.call('HINCRBY', KEYS[1], 'rejected', ARGV[4])
  redis.call('ZREM', KEYS[3], ARGV[2])
  redis.call('HDEL', KEYS[4], ARGV[2])
  if ARGV[5] ~= '' then
    redis.call('HSET', KEYS[5], ARGV[2], ARGV[5])
  end
  local cursor = tonumber(redis.call('HGET', KEYS[1], 'cursor'))
  if cursor < parts then
    next = cursor
    redis.call('HINCRBY', KEYS[1], 'cursor', 1)
  end
end
return {next, parts - redis.call('HGET', KEYS[1], 'done')}
