-- Stops a job whose deadline has passed before all parts were done. KEYS: state. ARGV: time (see clock.lua).
-- Returns the reason for stopping, or ''.
local state = redis.call('HMGET', KEYS[1], 'stopped', 'deadline', 'done', 'parts')
if state[1] or not state[2] or tonumber(state[2]) > clock(ARGV[1]) or tonumber(state[3]) >= tonumber(state[4]) then
  return state[1] or ''
end
redis.call('HSET', KEYS[1], 'stopped', 'deadline')
return 'deadline'
