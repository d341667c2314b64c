-- Takes the jobs of the watchlist that are to be looked at. KEYS: watchlist, a sorted set of job ids and of the times (s)
-- at which to look at them next. ARGV: time (see clock.lua), maximum number of jobs, seconds until they may be taken
-- again. Returns their ids, those first that have waited longest.
local now = clock(ARGV[1])
local taken = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, job_id in ipairs(taken) do
  redis.call('ZADD', KEYS[1], now + ARGV[3], job_id)
end
return taken
