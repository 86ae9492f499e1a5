-- Prepended to every script: the keys, the clock, the fence, the learned speed.
-- KEYS[1] is the prefix "{namespace}:"; its hash tag keeps all keys on one node of a cluster.
-- V is a variant's name; for its jobs of a later format than 1, NAME@FORMAT: to scripts it is a variant of its own.
--
-- While a service is upgraded, scripts of two releases work on the same keys: see Upgrading in docs/operations.md before
-- any of this changes.
--
--   job:ID          hash    the job and where it stands
--   waiting:V       zset    places of the jobs that wait for variant V, next first (line.lua)
--   since:V         zset    ids of those jobs, by the time they were submitted
--   backlog         hash    cost of the jobs that wait, by variant; no field where none wait
--   tags:C          zset    finish tag of each client's last job in priority class C, those in the past forgotten
--   vtime           hash    virtual time by class and variant
--   client:NAME     hash    what a client has in line and under way; gone when that is nothing
--   totals          hash    arrivals so far, jobs waiting, weight of the clients who wait, bytes stored
--   leases          zset    ids of the running jobs, by the time their lease ends
--   deadlines       zset    ids of the jobs that have one, by it
--   attended        zset    ids of the jobs that somebody must ask for, by the time until which somebody has
--   dead            zset    ids of the dead letters, by the time they are forgotten
--   files           hash    bytes stored, by job id
--   expiring        zset    ids of the jobs that are final, by the time their files may go
--   key:…           string  id of the job that an idempotency key belongs to
--   rate:NAME       string  the time at which a client's bucket of tokens is full again
--   learned         hash    device seconds and megapixels of late, by variant
--   workers         zset    workers, by the time they count as gone
--   serving:V       zset    those that serve variant V, likewise
--   variants        hash    what a variant is, by its name
--   variants:known  zset    names of the variants, by the time they count as unknown
--   events:ID       stream  what happened to the job, the oldest lines dropped
--   ended           stream  ids of the jobs that reached their final state, the oldest dropped
--   called_off      stream  ids of those that ended while a worker had them and not by its doing, likewise
--   arrivals        stream  one entry, replaced whenever a job begins to wait: what idle workers listen to
--   listing         string  there while no sweep needs to list the store
local prefix = KEYS[1]
local totals = prefix .. 'totals'
local MAX_EVENTS = 512
local MAX_ENDED = 10000
local MICRO = 1e6 -- costs are whole millionths of a megapixel: their sums stay exact

local function now()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1e6
end

local function stamp(time)
  return string.format('%.6f', time)
end

-- A server that is full refuses a script whose first write would take memory. One that brings jobs to their end, and so
-- makes room, begins with a write that takes none, and is let through.
local function even_when_full()
  redis.call('DEL', prefix)
end

-- A number that Redis gave as a text; 0 for none.
local function number(text)
  return tonumber(text or 0)
end

local function job_key(id)
  return prefix .. 'job:' .. id
end

local function waiting_key(variant)
  return prefix .. 'waiting:' .. variant
end

local function since_key(variant)
  return prefix .. 'since:' .. variant
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

-- Where a job is in line, 0 is next; -1 when it does not wait.
local function position(id)
  local job = redis.call('HMGET', job_key(id), 'variant', 'place')
  return job[1] and redis.call('ZRANK', waiting_key(job[1]), job[2]) or -1
end

-- Device seconds that a megapixel takes, as learned of late; nil while nothing is known.
local function seconds_per_megapixel(variant)
  local learned = redis.call('HMGET', prefix .. 'learned', 'seconds:' .. variant, 'megapixels:' .. variant)
  return learned[1] and learned[1] / learned[2]
end

-- Live workers that a job of the variant, or of any, may come to; the one that is sure to come when there is none.
local function servers(variant)
  return math.max(1, redis.call('ZCOUNT', variant and serving_key(variant) or prefix .. 'workers', now(), '+inf'))
end
