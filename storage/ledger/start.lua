-- Notes that a part is under way. KEYS: state, done, leases, attempts. ARGV: plan digest, part, lease end (s).
-- Returns {done before, attempt, parts left}.
local digest = redis.call('HGET', KEYS[1], 'plan')
if not digest then
  return redis.error_reply('LOST')
end
if digest ~= ARGV[1] then
  return redis.error_reply('ANOTHERPLAN')
end
local left = redis.call('HGET', KEYS[1], 'parts') - redis.call('HGET', KEYS[1], 'done')
if redis.call('GETBIT', KEYS[2], ARGV[2]) == 1 then
  return {1, 0, left}
end
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[2])
return {0, redis.call('HINCRBY', KEYS[4], ARGV[2], 1), left}
