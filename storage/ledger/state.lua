-- Returns the state of a job (see `JobState`): {work, parts, parts done, rows that are scored or rejected, parts in flight,
-- reason for stopping or ''}. Returns an empty list if the job has no ledger, or if its ledger is damaged. KEYS: state.
local intact, answer = pcall(function()
  local state = redis.call('HGETALL', KEYS[1])
  local field, flights, rows = {}, 0, 0
  for i = 1, #state, 2 do
    field[state[i]] = state[i + 1]
  end
  if not field.plan then
    return {}
  end
  rows = field.rows + field.rejected
  for name, value in pairs(field) do
    local part = string.match(name, '^f(%d+)$')
    if part then
      flights = flights + 1
      rows = rows + (field['r' .. part] or 0)
    end
  end
  return {field.work or '', tonumber(field.parts), tonumber(field.done), string.format('%.0f', rows), flights,
    field.stopped or ''}
end)
return intact and answer or {}
