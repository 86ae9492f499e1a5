-- ARGV: id, variant, job, priority → the job's position in line, 0 is next; -1 when it waits no more.
-- Submitting the same id again changes nothing: a retry after a lost answer never enqueues twice.
local id, variant, job, priority = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('EXISTS', job_key(id)) == 0 then
  -- Priority first, then the order of arrival: exact in a double for 2^40 jobs and any priority from -10 to 10.
  local score = redis.call('INCR', prefix .. 'submitted') - priority * 2 ^ 40
  redis.call('HSET', job_key(id), 'job', job, 'variant', variant, 'score', score, 'attempt', 0, 'released', 0,
    'tiles_done', 0, 'tiles_total', 0, 'created_at', stamp(now()))
  enqueue(id)
end
return redis.call('ZRANK', waiting_key(variant), id) or -1
