-- Notes how many rows a part under way has scored so far. KEYS: state. ARGV: plan digest, part, scored rows.
-- A note of a part that is not in flight is not kept. One that a worker of an earlier release leaves does not count.
local state = redis.call('HMGET', KEYS[1], 'plan', 'f' .. ARGV[2])
if state[1] == ARGV[1] and state[2] then
  redis.call('HSET', KEYS[1], 'r' .. ARGV[2], ARGV[3])
end
return 0
