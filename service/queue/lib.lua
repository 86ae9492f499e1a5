-- Prepended to every script: the keys, the clock, and the three ways a job can go.
-- KEYS[1] is the prefix "{namespace}:"; its hash tag keeps all keys on one node of a cluster.
--
--   job:ID      hash    the job and where it stands
--   waiting:V   zset    ids of the jobs that wait for variant V, next first
--   serving:V   zset    workers that serve variant V, by the time they count as gone
--   leases      zset    ids of the running jobs, by the time their lease ends
--   events:ID   stream  what happened to the job, the oldest lines dropped
--   ended       stream  ids of the jobs that reached their final state, the oldest dropped
--   arrivals    stream  one entry, replaced whenever a job begins to wait: what idle workers listen to
local prefix = KEYS[1]
local MAX_EVENTS = 512
local MAX_ENDED = 10000

local function now()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1e6
end

local function stamp(time)
  return string.format('%.6f', time)
end

local function job_key(id)
  return prefix .. 'job:' .. id
end

local function waiting_key(variant)
  return prefix .. 'waiting:' .. variant
end

local function serving_key(variant)
  return prefix .. 'serving:' .. variant
end

local function tell(id, kind, done, total)
  redis.call('XADD', prefix .. 'events:' .. id, 'MAXLEN', MAX_EVENTS, '*',
    'kind', kind, 'tiles_done', done, 'tiles_total', total)
end

-- The fence: only the attempt that holds the job may change it.
local function held(id, attempt)
  local job = redis.call('HMGET', job_key(id), 'state', 'attempt')
  return job[1] == 'running' and job[2] == attempt
end

-- Whether this very attempt has already brought the job into `state`: then the call is a retry, and was heard.
local function was_done(id, attempt, state)
  local job = redis.call('HMGET', job_key(id), 'state', 'attempt')
  return job[1] == state and job[2] == attempt
end

-- Put a job in line, at the place it has by its score. A job that comes back keeps its place.
local function enqueue(id)
  local job = redis.call('HMGET', job_key(id), 'variant', 'score')
  redis.call('HSET', job_key(id), 'state', 'queued', 'tiles_done', 0)
  redis.call('HDEL', job_key(id), 'started_at')
  redis.call('ZREM', prefix .. 'leases', id)
  redis.call('ZADD', waiting_key(job[1]), job[2], id)
  redis.call('XADD', prefix .. 'arrivals', 'MAXLEN', 1, '*', 'id', id)
  tell(id, 'queued', 0, 0)
end

-- Bring a job to its one final state; what is known of it stays for `ttl` seconds.
local function settle(id, state, ttl, field, value)
  local job = redis.call('HMGET', job_key(id), 'variant', 'tiles_done', 'tiles_total')
  redis.call('HSET', job_key(id), 'state', state, 'finished_at', stamp(now()))
  if field then
    redis.call('HSET', job_key(id), field, value)
  end
  redis.call('ZREM', prefix .. 'leases', id)
  redis.call('ZREM', waiting_key(job[1]), id)
  tell(id, state, job[2], job[3])
  redis.call('XADD', prefix .. 'ended', 'MAXLEN', '~', MAX_ENDED, '*', 'id', id)
  local ms = math.ceil(ttl * 1000)
  redis.call('PEXPIRE', job_key(id), ms)
  redis.call('PEXPIRE', prefix .. 'events:' .. id, ms)
end

-- A delivery came to nothing: in line again, or failed for good when it was the last one allowed.
local function again_or_fail(id, max_attempts, ttl, problem)
  local job = redis.call('HMGET', job_key(id), 'attempt', 'released')
  if tonumber(job[1]) - tonumber(job[2]) < max_attempts then
    enqueue(id)
  else
    settle(id, 'failed', ttl, 'error', problem)
  end
end
