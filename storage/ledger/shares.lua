-- Shares the processes among groups of jobs (see `scoreline.storage.ledger.shares`). Precedes the scripts that use it.
-- The key `groups` is a sorted set. '+<group>' is a group with parts that wait, '-<group>' is one without, and the score
-- is the time (s, divided by the weight of the group) that the group has used. The key `ready:<group>` is a sorted set
-- of the jobs of a group with parts that wait, by rank: jobs of a high priority first, and then those that are older.
-- The field `listed` of a job's state is set while the job is in that set, so that most scripts need not read the set.
local function shares(groups_key)
  local self = {}
  local prefix = string.sub(groups_key, 1, -7)
  local function ready(group)
    return prefix .. 'ready:' .. group
  end
  function self.state(job)
    return string.sub(prefix, 1, -3) .. '/' .. job .. '}:state'
  end
  -- Lists a job. A group that had no part waiting begins just below the least time of all groups, or at its own time if
  -- that is more.
  function self.list(job, group, rank, life)
    redis.call('ZADD', ready(group), rank, job)
    redis.call('EXPIRE', ready(group), life)
    if not redis.call('ZSCORE', groups_key, '+' .. group) then
      local least = redis.call('ZRANGE', groups_key, 0, 0, 'WITHSCORES')[2]
      local before = redis.call('ZSCORE', groups_key, '-' .. group)
      redis.call('ZREM', groups_key, '-' .. group)
      redis.call('ZADD', groups_key, math.max(tonumber(least or 0) - 0.001, tonumber(before or 0)), '+' .. group)
    end
    redis.call('EXPIRE', groups_key, life)
  end
  -- Adds time to a group. A group that is not known begins at the time of the group with the least time.
  function self.add(group, seconds)
    for _, sign in ipairs({'+', '-'}) do
      if redis.call('ZADD', groups_key, 'XX', 'INCR', seconds, sign .. group) then
        return
      end
    end
    local least = redis.call('ZRANGE', groups_key, 0, 0, 'WITHSCORES')[2]
    if seconds > 0 and least then
      redis.call('ZADD', groups_key, tonumber(least) + seconds, '-' .. group)
    end
  end
  -- Returns the seconds that a part took, the seconds with which its group was charged (nil if the group was not
  -- charged), the group, and the weight of the group; nothing if the part was not chosen. Forgets for which part the
  -- message of the part was used. `text` is the field c<part> (see start.lua). A longer time than `longest` is due to a
  -- clock that was set.
  local longest = 600
  function self.ended(text, now)
    local charge, begun, weight, group, job, part = string.match(text or '', '^(%S+) (%S+) (%d+) (%S*) (%S+) (%d+)$')
    if not charge then
      return nil
    end
    if job ~= '-' then
      redis.call('HDEL', self.state(job), 'm' .. part)
    end
    return {took = math.min(longest, math.max(0, now - begun)), charge = tonumber(charge), group = group, weight = weight}
  end
  -- Charges the group of a part that has ended with the seconds that it took, in place of those that were expected.
  function self.settle(text, now)
    local part = self.ended(text, now)
    if part and part.charge then
      self.add(part.group, (part.took - part.charge) / part.weight)
    end
  end
  -- Returns the group that has used the least time among those with parts that wait, and whether no other group is
  -- known. Groups without parts that wait are forgotten if they have used less time than that group. If no part waits,
  -- at most `remembered` groups are kept.
  local remembered, slice = 1000, 100
  local function first_group()
    local two = redis.call('ZRANGE', groups_key, 0, 1)
    if two[1] and string.sub(two[1], 1, 1) == '+' then
      return string.sub(two[1], 2), not two[2]
    end
    for begin = 0, redis.call('ZCARD', groups_key) - 1, slice do
      for place, name in ipairs(redis.call('ZRANGE', groups_key, begin, begin + slice - 1)) do
        if string.sub(name, 1, 1) == '+' then
          redis.call('ZREMRANGEBYRANK', groups_key, 0, begin + place - 2)
          return string.sub(name, 2), redis.call('ZCARD', groups_key) == 1
        end
      end
    end
    redis.call('ZREMRANGEBYRANK', groups_key, 0, -remembered - 1)
    return nil
  end
  -- Returns the job and the part that are due, the group, whether no other group is known, and what `find` returned.
  -- `find(job)` returns the part of a job that waits, or nothing if there is none; such a job is no longer listed.
  function self.choose(find)
    while true do
      local group, alone = first_group()
      if not group then
        return nil
      end
      local job = redis.call('ZRANGE', ready(group), 0, 0)[1]
      if job then
        local part, field = find(job)
        if part then
          return {job = job, part = part, group = group, alone = alone, field = field}
        end
        redis.call('ZREM', ready(group), job)
        redis.call('HDEL', self.state(job), 'listed')
      else
        local used = redis.call('ZSCORE', groups_key, '+' .. group)
        redis.call('ZREM', groups_key, '+' .. group)
        redis.call('ZADD', groups_key, used, '-' .. group)
      end
    end
  end
  return self
end
