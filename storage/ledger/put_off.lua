-- Looks at a job again only later, if it is on the watchlist. KEYS: watchlist. ARGV: time (see clock.lua), job, seconds.
return redis.call('ZADD', KEYS[1], 'XX', clock(ARGV[1]) + ARGV[3], ARGV[2])
