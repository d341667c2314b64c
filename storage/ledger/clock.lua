-- Precedes every other script. Returns the time in seconds: the one given, which only tests give, or the server's own.
-- All deadlines are compared with one clock, so a machine whose clock is wrong neither ends nor prolongs a lease.
local function clock(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end
