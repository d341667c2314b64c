-- Lists the steps that wait for a process. KEYS: waiting, taken; two sorted sets of steps. The score of a waiting step is
-- the time (s) at which it was added; that of a taken step is the time at which it is no longer taken.
-- ARGV: action, step, time (see clock.lua), seconds for which the step counts as taken, maximum number of waiting steps,
-- seconds for which a step is listed. The actions are those of `WaitingSteps`; `take` returns a step or nothing.
local action, step, now = ARGV[1], ARGV[2], clock(ARGV[3])
local until_s = now + tonumber(ARGV[4])
if action == 'add' then
  redis.call('ZADD', KEYS[1], 'NX', now, step)
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[5] - 1)
  redis.call('EXPIRE', KEYS[1], ARGV[6])
elseif action == 'take' then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[6])
  local first = redis.call('ZPOPMIN', KEYS[1])[1]
  if not first then
    return false
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  redis.call('ZADD', KEYS[2], until_s, first)
  redis.call('EXPIRE', KEYS[2], ARGV[6])
  return first
elseif action == 'renew' then
  redis.call('ZADD', KEYS[2], 'XX', until_s, step)
elseif action == 'begin' then
  redis.call('ZREM', KEYS[1], step)
  local taken = redis.call('ZSCORE', KEYS[2], step)
  return (taken and tonumber(taken) > now) and 0 or 1
elseif action == 'end' then
  redis.call('ZREM', KEYS[2], step)
end
return 0
