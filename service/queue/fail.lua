-- ARGV: id, attempt, problem, ttl, ttl of a dead letter, retry | dead | fail, deliveries allowed
-- → the state the job is in now, or nothing when this attempt holds the job no more.
even_when_full()
local id, attempt, problem, ttl, dead_ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local way, max_attempts = ARGV[6], tonumber(ARGV[7])
if was_done(id, attempt, 'failed') or was_done(id, attempt, 'queued') then
  return redis.call('HGET', job_key(id), 'state')
end
if not held(id, attempt) then
  return nil
end
if way == 'retry' then
  again_or_give_up(id, max_attempts, dead_ttl, problem)
elseif way == 'dead' then
  give_up(id, dead_ttl, problem)
else
  settle(id, 'failed', ttl, 'error', problem)
end
return redis.call('HGET', job_key(id), 'state')
