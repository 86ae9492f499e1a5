-- ARGV: job, limits, seconds that an attended job's asker may be silent
-- → [accepted | joined, id, position], [reused], [unserved] when no worker knows the job's format, or
-- [refused, by which bound, seconds after which to try again].
-- Submitting the same id again changes nothing: a retry after a lost answer never enqueues twice.
local job, limits = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local time = now()
local UNKNOWN_S = 60 -- nothing that is stored has a time yet at which it goes

-- Seconds until so many of the waiting jobs are taken, each of mean cost, with all live workers at work.
local function until_taken(jobs)
  local backlog, seconds, cost = redis.call('HGETALL', prefix .. 'backlog'), 0, 0
  for i = 1, #backlog, 2 do
    seconds = seconds + backlog[i + 1] / MICRO * (seconds_per_megapixel(backlog[i]) or 1)
    cost = cost + backlog[i + 1]
  end
  local waiting = number(redis.call('HGET', totals, 'waiting'))
  if waiting == 0 then
    return jobs * job.cost * (seconds_per_megapixel(line_of(job)) or 1) / servers()
  end
  return jobs * seconds / waiting / servers(), seconds / cost
end

-- The same of the client's own jobs, while all who wait take turns by their weights.
local function until_taken_of_client(jobs, mine)
  local all, seconds_per_cost = until_taken(jobs)
  if mine.waiting == 0 or not seconds_per_cost then
    return all -- it only has jobs under way
  end
  local share = mine.weight / number(redis.call('HGET', totals, 'weight'))
  return jobs * mine.cost / mine.waiting * seconds_per_cost / servers() / share
end

local function until_free(bytes)
  local expiring = redis.call('ZRANGE', prefix .. 'expiring', 0, 999, 'WITHSCORES')
  for i = 1, #expiring, 2 do
    bytes = bytes - number(redis.call('HGET', prefix .. 'files', expiring[i]))
    if bytes <= 0 or i == #expiring - 1 then
      return expiring[i + 1] - time
    end
  end
  return UNKNOWN_S
end

local function refused(why, seconds)
  return { 'refused', why, math.max(1, math.ceil(seconds)) }
end

-- An estimate is not made truer by rounding it up.
local function nearest(seconds)
  return math.floor(seconds + 0.5)
end

local function unknown_to_all()
  local known_until = number(redis.call('ZSCORE', prefix .. 'variants:known', line_of(job)))
  return job.version > 1 and known_until <= time and { 'unserved' }
end

local function tenth(bound)
  return math.max(1, math.ceil(bound / 10))
end

local function beyond_own_bounds()
  local counts = redis.call('HMGET', prefix .. 'client:' .. job.client, 'active', 'waiting', 'cost', 'weight')
  local mine = { active = number(counts[1]), waiting = number(counts[2]), cost = number(counts[3]), weight = counts[4] }
  for bound, what in pairs({ max_active = 'active', max_client_waiting = 'waiting' }) do
    if limits[bound] and mine[what] >= limits[bound] then
      return refused(bound, nearest(until_taken_of_client(tenth(limits[bound]), mine)))
    end
  end
end

local function beyond_bounds()
  if limits.max_waiting and number(redis.call('HGET', totals, 'waiting')) >= limits.max_waiting then
    return refused('max_waiting', nearest(until_taken(tenth(limits.max_waiting))))
  end
  local more = number(redis.call('HGET', totals, 'stored')) + job.bytes - (limits.max_stored_bytes or math.huge)
  if more > 0 then
    return refused('max_stored_bytes', until_free(more))
  end
end

-- A bucket of tokens for one minute, told by the time at which it is full again. A job takes one, a refusal none.
local function beyond_rate()
  if not limits.per_minute then
    return nil
  end
  local key = prefix .. 'rate:' .. job.client
  local full = math.max(time, number(redis.call('GET', key))) + 60 / limits.per_minute
  if full - time > 60 + 1e-6 then
    return refused('per_minute', full - time - 60)
  end
  redis.call('SET', key, stamp(full), 'PX', math.ceil((full - time) * 1000))
end

if redis.call('EXISTS', job_key(job.id)) == 1 then
  return { 'accepted', job.id, position(job.id) }
end
local answer = known_by(job.client, job.idempotency_key, job.digest) or unknown_to_all() or beyond_own_bounds()
  or beyond_bounds() or beyond_rate()
if answer then
  return answer
end
accept(ARGV[1], tonumber(ARGV[3]))
return { 'accepted', job.id, position(job.id) }
