-- Records that the outcome is written. KEYS: state, done, failed. ARGV: seconds until the ledger expires.
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'stopped', 'closed')
  for _, key in ipairs(KEYS) do
    redis.call('EXPIRE', key, ARGV[1])
  end
end
return 1
