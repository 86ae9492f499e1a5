-- ARGV: id, attempt, result, ttl → 1, or 0 when this attempt holds the job no more.
local id, attempt, result, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if was_done(id, attempt, 'succeeded') then
  return 1
end
if not held(id, attempt) then
  return 0
end
settle(id, 'succeeded', ttl, 'result', result)
return 1
