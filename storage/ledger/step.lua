-- Steps that one process at a time should do: planning, finalizing. KEYS: steps. ARGV: what, step, now (s), seconds,
-- longest (s), life of the key (s). A step is 'until sent attempts'.
-- 'claim': returns 1 where a message has to be sent, which is waited for twice as long each time.
-- 'begin': the caller does it; returns how often it was begun and not ended. 'renew': it is still at it.
-- 'pause': it ended without success and comes again: no attempt. 'end': it is done.
local what, step, now, seconds = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local until_s, sent, attempts = 0, 0, 0
local known = redis.call('HGET', KEYS[1], step)
if known then
  local a, b, c = string.match(known, '^(%S+) (%d+) (%d+)$')
  until_s, sent, attempts = tonumber(a), tonumber(b), tonumber(c)
end
if what == 'end' then
  redis.call('HDEL', KEYS[1], step)
  return 0
end
local answer = 1
if what == 'claim' then
  if until_s > now then
    return 0
  end
  until_s = now + math.min(tonumber(ARGV[5]), seconds * 2 ^ sent)
  sent = sent + 1
elseif what == 'begin' then
  attempts = attempts + 1
  answer = attempts
  until_s = now + seconds
elseif what == 'renew' then
  if not known then
    return 0
  end
  until_s = now + seconds
elseif what == 'pause' then
  attempts = math.max(0, attempts - 1)
end
redis.call('HSET', KEYS[1], step, string.format('%.3f %d %d', until_s, sent, attempts))
redis.call('EXPIRE', KEYS[1], ARGV[6])
return answer
