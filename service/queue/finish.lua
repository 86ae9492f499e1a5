-- ARGV: id, attempt, result, ttl → 1, or 0 when this attempt holds the job no more.
local id, attempt, result, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if was_done(id, attempt, 'succeeded') then
  return 1
end
if not held(id, attempt) then
  return 0
end
redis.call('HSET', job_key(id), 'tiles_done', redis.call('HGET', job_key(id), 'tiles_total'))
settle(id, 'succeeded', ttl, 'result', result)
return 1
