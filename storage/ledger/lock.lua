-- Acquires, renews or releases a lock. KEYS: lock. ARGV: holder, milliseconds until it expires, or 0 to release it.
-- Returns 1 if the holder has the lock now, or had it until now.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  return redis.call('DEL', KEYS[1])
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
