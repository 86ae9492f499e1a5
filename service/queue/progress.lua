-- ARGV: id, attempt, tiles done, tiles in all → 1, or 0 when this attempt holds the job no more.
even_when_full()
local id, attempt, done, total = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not held(id, attempt) then
  return 0
end
redis.call('HSET', job_key(id), 'tiles_done', done, 'tiles_total', total)
tell(id, 'progress', done, total)
return 1
