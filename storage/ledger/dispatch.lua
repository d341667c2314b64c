-- Claims the parts that the caller must put into the queue: parts that seem to have lost their message or worker, and
-- new parts up to the window. KEYS: state, done, groups (see shares.lua).
-- ARGV: plan digest, window, time (see clock.lua), patience (s), maximum patience (s), job, seconds until the keys of the
-- groups expire, 1 if the queue is long, maximum patience (s) if the queue is long.
-- A part is in flight from its dispatch to its completion. Meanwhile the field f<part> of the state is
-- '<time (s) at which it is considered lost> <attempts> <messages sent> <holder of the lease, or ->'.
-- Returns {parts left, reason for stopping or '', part, part, ...}.
local state = redis.call('HGETALL', KEYS[1])
local field, flights, count = {}, {}, 0
for i = 1, #state, 2 do
  field[state[i]] = state[i + 1]
  if string.sub(state[i], 1, 1) == 'f' and tonumber(string.sub(state[i], 2)) then
    flights[state[i]] = state[i + 1]
    count = count + 1
  end
end
if not field.plan then
  return redis.error_reply('LOST')
end
if field.plan ~= ARGV[1] then
  return redis.error_reply('ANOTHERPLAN')
end
local parts, cursor = tonumber(field.parts), tonumber(field.cursor)
local now = clock(ARGV[3])
if not field.stopped and field.deadline and tonumber(field.deadline) <= now and parts > tonumber(field.done) then
  redis.call('HSET', KEYS[1], 'stopped', 'deadline')
  field.stopped = 'deadline'
end
local answer = {parts - field.done, field.stopped or ''}
if field.stopped then
  return answer
end
local window = math.min(tonumber(ARGV[2]), tonumber(field.most) or math.huge)
local is_long, freed = ARGV[8] == '1', false
local patience, longest = tonumber(ARGV[4]), tonumber(is_long and ARGV[9] or ARGV[5])
local function send(part, attempts, sent, holder)
  -- the wait doubles with each unanswered message, because the queue may simply be long
  local wait = math.min(longest, patience * 2 ^ sent)
  redis.call('HSET', KEYS[1], 'f' .. part, string.format('%.3f %d %d -', now + wait, attempts, sent + 1))
  if field['c' .. part] or field['w' .. part] then
    shares(KEYS[3]).ended(field['c' .. part], now)
    redis.call('HDEL', KEYS[1], 'c' .. part, 'w' .. part)
  end
  freed = true
  if not (is_long and holder == '-') then -- in a long queue, there are messages for each part that waits
    answer[#answer + 1] = part
  end
end
for name, flight in pairs(flights) do
  local deadline, attempts, sent, holder = string.match(flight, '^(%S+) (%d+) (%d+) (%S+)')
  if tonumber(deadline) <= now then
    send(tonumber(string.sub(name, 2)), tonumber(attempts), tonumber(sent), holder)
  end
end
while count < window and cursor < parts do
  cursor = field.rebuilt and undone(KEYS[2], cursor) or cursor
  if cursor < parts then
    send(cursor, 0, 0)
    count = count + 1
  end
  cursor = cursor + 1
end
redis.call('HSET', KEYS[1], 'cursor', cursor)
if freed then
  shares(KEYS[3]).list(ARGV[6], field.group or '', field.rank or 0, ARGV[7])
  redis.call('HSET', KEYS[1], 'listed', 1)
end
return answer
