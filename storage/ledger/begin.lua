-- Opens a job's ledger once. KEYS: state, done, leases. ARGV: plan digest, parts, window.
-- Returns the parts to dispatch: those of the window that are neither done nor under way.
local digest = redis.call('HGET', KEYS[1], 'plan')
if digest and digest ~= ARGV[1] then
  return redis.error_reply('ANOTHERPLAN')
end
if not digest then
  redis.call('HSET', KEYS[1], 'plan', ARGV[1], 'parts', ARGV[2],
    'cursor', math.min(tonumber(ARGV[2]), tonumber(ARGV[3])), 'done', 0, 'rows', 0, 'rejected', 0)
end
local open = {}
for part = 0, tonumber(redis.call('HGET', KEYS[1], 'cursor')) - 1 do
  if redis.call('GETBIT', KEYS[2], part) == 0 and not redis.call('ZSCORE', KEYS[3], part) then
    open[#open + 1] = part
  end
end
return open
