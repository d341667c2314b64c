-- Opens the ledger of a job, unless it is already open. KEYS: state, done. ARGV: plan digest, number of parts, reject
-- budget; number of parts that are already done, their scored rows, their rejected rows, a bitmap of them ('' if the
-- plan is new); number of times that the ledger was rebuilt because it had counted parts that were not complete; group,
-- rank in the group, maximum number of parts in flight or '', time (s) of the deadline or '' (see `Terms`); a text that
-- describes the work of the job, trace context or '' (see `Ledger.begin`).
-- Returns 1 if this call opened the ledger. The field `rebuilt` is set if there may be results that the ledger has not
-- counted.
local digest = redis.call('HGET', KEYS[1], 'plan')
if digest then
  if digest ~= ARGV[1] then
    return redis.error_reply('ANOTHERPLAN')
  end
  return 0
end
redis.call('HSET', KEYS[1], 'plan', ARGV[1], 'parts', ARGV[2], 'budget', ARGV[3], 'cursor', 0,
  'done', ARGV[4], 'rows', ARGV[5], 'rejected', ARGV[6], 'failures', 0, 'group', ARGV[9], 'rank', ARGV[10],
  'work', ARGV[13])
if ARGV[11] ~= '' then
  redis.call('HSET', KEYS[1], 'most', ARGV[11])
end
if ARGV[14] ~= '' then
  redis.call('HSET', KEYS[1], 'trace', ARGV[14])
end
if ARGV[12] ~= '' then
  redis.call('HSET', KEYS[1], 'deadline', ARGV[12])
end
if ARGV[7] ~= '' then
  redis.call('SET', KEYS[2], ARGV[7])
  redis.call('HSET', KEYS[1], 'rebuilt', 1, 'uncounted', ARGV[8])
end
if tonumber(ARGV[6]) > tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], 'stopped', 'budget')
end
return 1
