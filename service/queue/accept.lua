-- Prepended to every script: how a new job comes in.

local function key_key(client, key)
  return string.format('%skey:%d:%s:%s', prefix, #client, client, key) -- its length keeps two clients' keys apart
end

-- What an idempotency key stands for: nothing, or the answer to a submit with it.
local function known_by(client, key, digest)
  local id = key ~= '' and redis.call('GET', key_key(client, key))
  if not id or redis.call('EXISTS', job_key(id)) == 0 then
    return nil
  end
  if redis.call('HGET', job_key(id), 'digest') ~= digest then
    return { 'reused' }
  end
  return { 'joined', id, position(id) }
end

-- Which line a job waits in: its variant's own; for a format later than 1, which older workers do not know, one apart.
local function line_of(job)
  return job.version == 1 and job.options.model or string.format('%s@%d', job.options.model, job.version)
end

-- Make a job of its JSON and put it in line. `attend_s`: how long somebody who waits for it may be silent.
local function accept(text, attend_s)
  local job, time = cjson.decode(text), now()
  local id, variant, class = job.id, line_of(job), class_of(job.options.priority)
  local cost = math.ceil(job.cost * MICRO)
  local span = math.ceil(cost / job.weight)
  local tag = start_tag(class, variant, job.client)
  redis.call('ZADD', prefix .. 'tags:' .. class, tag + span, job.client)
  redis.call('HSET', job_key(id), 'job', text, 'variant', variant, 'client', job.client, 'digest', job.digest,
    'key', job.idempotency_key, 'place', place_at(class, tag, id), 'span', span, 'cost', cost,
    'weight', math.ceil(job.weight * 1000), 'attempt', 0, 'released', 0, 'tiles_done', 0, 'tiles_total', 0,
    'created_at', stamp(time))
  redis.call('HINCRBY', prefix .. 'client:' .. job.client, 'active', 1)
  redis.call('HSET', prefix .. 'files', id, job.bytes)
  redis.call('HINCRBY', totals, 'stored', job.bytes)
  if job.idempotency_key ~= '' then
    redis.call('SET', key_key(job.client, job.idempotency_key), id)
  end
  if type(job.options.deadline_s) == 'number' then
    redis.call('ZADD', prefix .. 'deadlines', stamp(time + job.options.deadline_s), id)
  end
  if job.attended then
    redis.call('ZADD', prefix .. 'attended', stamp(time + attend_s), id)
  end
  enter_line(id)
end
