-- ARGV: id, attempt → 1, or 0 when this attempt holds the job no more. The delivery does not count; the number of
-- the attempt is never used again all the same, because it is the fence.
even_when_full()
local id, attempt = ARGV[1], ARGV[2]
if was_done(id, attempt, 'queued') then
  return 1
end
if not held(id, attempt) then
  return 0
end
redis.call('HINCRBY', job_key(id), 'released', 1)
enter_line(id)
return 1
