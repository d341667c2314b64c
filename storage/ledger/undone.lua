-- Returns the first part, at or after `cursor`, whose bit in the bitmap `key` is not set. BITPOS skips any number of
-- done parts with one command, so that other clients do not wait for Redis even if a million parts are done. BITPOS can
-- begin only at a byte.
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
