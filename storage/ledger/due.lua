-- Returns 1 if a job has to be reconciled (see `Watchlist.due`), or if its keys are damaged. KEYS: state, steps.
-- ARGV: time (see clock.lua), window, seconds between two thorough looks, seconds until the key of the steps expires.
-- The step `look` has the time (s) of the next thorough look. It is put off once the look is done.
local now = clock(ARGV[1])
local function pending(step)
  local known = redis.call('HGET', KEYS[2], step)
  return known and tonumber(string.match(known, '^%S+')) > now
end
local function asks()
  local state = redis.call('HGETALL', KEYS[1])
  local field, flights, lost = {}, 0, false
  for i = 1, #state, 2 do
    field[state[i]] = state[i + 1]
    if string.match(state[i], '^f%d+$') then
      flights = flights + 1
      lost = lost or tonumber(string.match(state[i + 1], '^%S+')) <= now
    end
  end
  if not field.plan then
    return not pending('plan')
  end
  if field.stopped == 'closed' then
    return not pending('events')
  end
  if field.stopped or tonumber(field.done) >= tonumber(field.parts) then
    return not pending('finalize')
  end
  if field.deadline and tonumber(field.deadline) <= now then
    return true
  end
  local window = math.min(tonumber(ARGV[2]), tonumber(field.most) or math.huge)
  return lost or (flights < window and tonumber(field.cursor) < tonumber(field.parts))
end
local intact, known, due, looked = pcall(function()
  return redis.call('HEXISTS', KEYS[2], 'look') == 1, asks(), pending('look')
end)
if not intact then  -- something else wrote to these keys; whoever reconciles the job says so
  return 1
end
if not known then
  redis.call('HSET', KEYS[2], 'look', string.format('%.3f 0 0', now + ARGV[3]))
  redis.call('EXPIRE', KEYS[2], ARGV[4])
  return due and 1 or 0
end
return (due or not looked) and 1 or 0
