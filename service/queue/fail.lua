-- ARGV: id, attempt, problem, ttl, deliveries allowed → 1, or 0 when this attempt holds the job no more.
local id, attempt, problem, ttl, max_attempts = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
if was_done(id, attempt, 'failed') or was_done(id, attempt, 'queued') then
  return 1
end
if not held(id, attempt) then
  return 0
end
again_or_fail(id, max_attempts, ttl, problem)
return 1
