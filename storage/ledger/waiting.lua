-- Lists the steps that wait for a process. KEYS: waiting, taken, carried, done, traces. `carried` is a hash of what steps
-- carry, and `traces` is a hash of their trace contexts; the others are sorted sets of steps. The score of a waiting step is the time (s) at which it was added. The score of a
-- taken or done step is the time at which it no longer counts as taken or done.
-- ARGV: action, step, time (see clock.lua), seconds for which the step counts as taken or done, maximum number of waiting
-- steps, seconds for which a step is listed, maximum number of steps that carry data, number of steps that 'alike' looks
-- at, data of the step, maximum number of steps that 'alike' takes, trace context of the step. The actions are those of
-- `WaitingSteps`. 'take' and 'alike' return steps, each followed by what it carries and by its trace context; 'begin'
-- returns whether the step can begin, and what it carries; 'offer' returns the state of the step, and 'states' those of
-- the steps in the data, which are separated by line feeds.
local action, step, now = ARGV[1], ARGV[2], clock(ARGV[3])
local until_s = now + tonumber(ARGV[4])
local function drop(other)
  local carried = redis.call('HGET', KEYS[3], other) or ''
  redis.call('ZREM', KEYS[1], other)
  redis.call('HDEL', KEYS[3], other)
  redis.call('HDEL', KEYS[5], other)
  return carried
end
-- Returns the state of a step: '' if it is not listed, and no process does it or has done it recently.
local function state(other)
  local taken, done = redis.call('ZSCORE', KEYS[2], other), redis.call('ZSCORE', KEYS[4], other)
  if taken and tonumber(taken) > now then
    return 'taken'
  end
  if done and tonumber(done) > now then
    return 'done'
  end
  return redis.call('ZSCORE', KEYS[1], other) and 'waiting' or ''
end
local function drop_old()
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[6])) do
    drop(other)
  end
end
local function take(others)
  local found = {}
  for _, other in ipairs(others) do
    local trace = redis.call('HGET', KEYS[5], other) or ''
    found[#found + 1] = other
    found[#found + 1] = drop(other)
    found[#found + 1] = trace
    redis.call('ZADD', KEYS[2], until_s, other)
  end
  if #found > 0 then
    redis.call('EXPIRE', KEYS[2], ARGV[6])
  end
  return found
end
if action == 'offer' then
  local known = state(step)
  if known ~= '' then
    return known
  end
  action = 'add'
elseif action == 'states' then
  local found = {}
  for other in string.gmatch(ARGV[9], '[^\n]+') do
    found[#found + 1] = state(other)
  end
  return found
end
if action == 'add' then
  redis.call('ZADD', KEYS[1], 'NX', now, step)
  if ARGV[11] ~= '' then
    redis.call('HSET', KEYS[5], step, ARGV[11])
    redis.call('EXPIRE', KEYS[5], ARGV[6])
  end
  redis.call('ZREM', KEYS[4], step)
  if ARGV[9] ~= '' and redis.call('HLEN', KEYS[3]) >= tonumber(ARGV[7]) then
    for _, other in ipairs(redis.call('HKEYS', KEYS[3])) do -- earlier releases leave data behind
      if not redis.call('ZSCORE', KEYS[1], other) then
        redis.call('HDEL', KEYS[3], other)
      end
    end
  end
  if ARGV[9] ~= '' and redis.call('HLEN', KEYS[3]) < tonumber(ARGV[7]) then
    redis.call('HSET', KEYS[3], step, ARGV[9])
    redis.call('EXPIRE', KEYS[3], ARGV[6])
  end
  for _, other in ipairs(redis.call('ZRANGE', KEYS[1], 0, -ARGV[5] - 1)) do
    drop(other)
  end
  redis.call('EXPIRE', KEYS[1], ARGV[6])
  return ''
elseif action == 'take' then
  drop_old()
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  return take(redis.call('ZRANGE', KEYS[1], 0, 0))
elseif action == 'alike' then
  drop_old()
  local alike = {}
  for _, other in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[8] - 1)) do
    if #alike < tonumber(ARGV[10]) and string.sub(other, 1, #step) == step then
      local carried = redis.call('HGET', KEYS[3], other)
      if carried and string.sub(carried, 1, #ARGV[9]) == ARGV[9] then
        alike[#alike + 1] = other
      end
    end
  end
  return take(alike)
elseif action == 'renew' then
  redis.call('ZADD', KEYS[2], 'XX', until_s, step)
elseif action == 'begin' then
  local known = state(step)
  if known == 'taken' then -- if it was added since, it must be done once more
    return {known, ''}
  end
  local carried = drop(step)
  return known == 'done' and {known, ''} or {'', carried}
elseif action == 'end' then
  redis.call('ZREM', KEYS[2], step)
  if tonumber(ARGV[4]) > 0 and not redis.call('ZSCORE', KEYS[1], step) then
    redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
    redis.call('ZADD', KEYS[4], until_s, step)
    redis.call('EXPIRE', KEYS[4], math.ceil(tonumber(ARGV[4])))
  end
end
return 0
