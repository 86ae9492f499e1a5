-- Prepended to every script: the ways a job can end.

-- Bring a job to its one final state; what is known of it, and its files, stay for `ttl` seconds. An idempotency key
-- stands for a job that succeeded as long as that is known; of any other it is free again.
local function settle(id, state, ttl, field, value)
  leave_line(id)
  local job = redis.call('HMGET', job_key(id), 'client', 'key', 'tiles_done', 'tiles_total')
  local time, ms = now(), math.ceil(ttl * 1000)
  redis.call('HSET', job_key(id), 'state', state, 'finished_at', stamp(time))
  if field then
    redis.call('HSET', job_key(id), field, value)
  end
  for _, set in ipairs({ 'leases', 'deadlines', 'attended' }) do
    redis.call('ZREM', prefix .. set, id)
  end
  if redis.call('HINCRBY', prefix .. 'client:' .. job[1], 'active', -1) == 0 then
    redis.call('DEL', prefix .. 'client:' .. job[1])
  end
  tell(id, state, job[3], job[4])
  redis.call('XADD', prefix .. 'ended', 'MAXLEN', '~', MAX_ENDED, '*', 'id', id)
  redis.call('ZADD', prefix .. 'expiring', stamp(time + ttl), id)
  redis.call('PEXPIRE', job_key(id), ms)
  redis.call('PEXPIRE', prefix .. 'events:' .. id, ms)
  if job[2] ~= '' and state == 'succeeded' then
    redis.call('PEXPIRE', key_key(job[1], job[2]), ms)
  elseif job[2] ~= '' then
    redis.call('DEL', key_key(job[1], job[2]))
  end
end

-- End a job whose worker may be at it, without its doing: it reads a stream of such ends only, as all ends are many.
local function call_off(id, state, ttl, field, value)
  if redis.call('HGET', job_key(id), 'state') == 'running' then
    redis.call('XADD', prefix .. 'called_off', 'MAXLEN', '~', MAX_ENDED, '*', 'id', id)
  end
  settle(id, state, ttl, field, value)
end

-- Give a job up: it has failed, and an operator may look at it, replay it or bury it.
local function give_up(id, dead_ttl, problem)
  settle(id, 'failed', dead_ttl, 'error', problem)
  redis.call('ZADD', prefix .. 'dead', stamp(now() + dead_ttl), id)
end

-- A delivery came to nothing: in line again, or given up when it was the last one allowed.
local function again_or_give_up(id, max_attempts, dead_ttl, problem)
  local job = redis.call('HMGET', job_key(id), 'attempt', 'released')
  if job[1] - job[2] < max_attempts then
    enter_line(id)
    return true
  end
  give_up(id, dead_ttl, problem)
  return false
end

-- A dead letter goes: nothing is known of it any more, and its files go with the next sweep.
local function remove_letter(id)
  redis.call('ZREM', prefix .. 'dead', id)
  redis.call('DEL', job_key(id), prefix .. 'events:' .. id)
  redis.call('ZADD', prefix .. 'expiring', 'XX', stamp(now()), id)
end
