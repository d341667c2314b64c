-- Notes how many rows a part under way has rejected so far. KEYS: state. ARGV: plan digest, part, rejected rows.
-- Returns the rejected rows of the job: those that are counted, and those of all parts in flight. Of a part that was
-- counted by a worker of an earlier release, the note may be left; it does not count, because the part is not in flight.
local state = redis.call('HGETALL', KEYS[1])
local field = {}
for i = 1, #state, 2 do
  field[state[i]] = state[i + 1]
end
if field.plan ~= ARGV[1] then
  return tonumber(ARGV[3])
end
if field['f' .. ARGV[2]] then
  field['u' .. ARGV[2]] = ARGV[3]
  redis.call('HSET', KEYS[1], 'u' .. ARGV[2], ARGV[3])
end
local rejected = tonumber(field.rejected)
for name, count in pairs(field) do
  local part = string.match(name, '^u(%d+)$')
  if part and field['f' .. part] then
    rejected = rejected + tonumber(count)
  end
end
return rejected
