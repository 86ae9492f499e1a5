-- ARGV: id, ttl → the state the job is in now, or nothing when there is no such job.
-- A running job is cancelled at once too: its worker is fenced out, and hears of it by the stream of those called off.
even_when_full()
local id, ttl = ARGV[1], tonumber(ARGV[2])
local state = redis.call('HGET', job_key(id), 'state')
if state == 'queued' or state == 'running' then
  call_off(id, 'cancelled', ttl)
  return 'cancelled'
end
return state
