-- Returns the first part from `cursor` on whose bit is not set in the bitmap `key`. BITPOS skips any number of done parts
-- with one command, so that Redis answers others soon, even if a million parts are done. It can begin only at a byte.
local function undone(key, cursor)
  while cursor % 8 ~= 0 do
    if redis.call('GETBIT', key, cursor) == 0 then
      return cursor
    end
    cursor = cursor + 1
  end
  -- behind the last set bit, BITPOS returns 0 or -1
  return math.max(cursor, redis.call('BITPOS', key, 0, cursor / 8))
end
