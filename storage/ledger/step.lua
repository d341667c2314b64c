-- Coordinates the steps that should run in only one process at a time: planning and finalizing.
-- KEYS: steps. ARGV: action, step, time (see clock.lua), seconds, maximum wait (s), seconds until the key expires.
-- The field of a step is '<time (s) at which it is considered lost> <messages sent> <attempts>'. The actions are:
-- 'claim' returns 1 if the caller must send the message of the step. The wait doubles with each message.
-- 'begin' records that the caller works on the step, and returns how many times it was begun without being ended.
-- 'renew' records that the caller still works on the step.
-- 'pause' records that the step failed and will be retried. The failed run does not count as an attempt.
-- 'end' records that the step is done.
local action, step, now, seconds = ARGV[1], ARGV[2], clock(ARGV[3]), tonumber(ARGV[4])
local until_s, sent, attempts = 0, 0, 0
local known = redis.call('HGET', KEYS[1], step)
if known then
  local a, b, c = string.match(known, '^(%S+) (%d+) (%d+)$')
  until_s, sent, attempts = tonumber(a), tonumber(b), tonumber(c)
end
if action == 'end' then
  redis.call('HDEL', KEYS[1], step, 'object ' .. step) -- see redis_keys.object_of_step
  return 0
end
local answer = 1
if action == 'claim' then
  if until_s > now then
    return 0
  end
  until_s = now + math.min(tonumber(ARGV[5]), seconds * 2 ^ sent)
  sent = sent + 1
elseif action == 'begin' then
  attempts = attempts + 1
  answer = attempts
  until_s = now + seconds
elseif action == 'renew' then
  if not known then
    return 0
  end
  until_s = now + seconds
elseif action == 'pause' then
  attempts = math.max(0, attempts - 1)
end
redis.call('HSET', KEYS[1], step, string.format('%.3f %d %d', until_s, sent, attempts))
redis.call('EXPIRE', KEYS[1], ARGV[6])
return answer
