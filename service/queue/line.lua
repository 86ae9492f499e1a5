-- Prepended to every script: the lines of the jobs that wait, and who is next.
--
-- A job's place is a text that sorts: class of priority, start tag, number of arrival; then its id. The tags are those
-- of start-time fair queueing: a job starts at the line's virtual time or where its client's last job ends, whichever
-- is later, and ends cost / weight further on. The virtual time is the start tag of what was last taken. So a client
-- that floods the line only queues up behind itself: whoever else comes starts at the virtual time, before the flood.
-- Lines that one worker serves share their virtual time; lines of different workers do not hold each other up.
local CLASS = 2
local PLACE = CLASS + 20 + 15

local function class_of(priority)
  return string.format('%02d', 10 - priority)
end

-- The place of a job of the client that gets in line now. Beyond 2^53 a tag loses its last digits, not its order.
local function place_at(class, tag, id)
  return string.format('%s%020.0f%015.0f', class, tag, redis.call('HINCRBY', totals, 'arrivals', 1)) .. id
end

local function id_at(place)
  return string.sub(place, PLACE + 1)
end

local function waits(variant, class)
  return #redis.call('ZRANGEBYLEX', waiting_key(variant), '[' .. class, '(' .. class .. ':', 'LIMIT', 0, 1) > 0
end

-- The virtual times of a class, by variant.
local function virtual_times(class)
  local all, times = redis.call('HGETALL', prefix .. 'vtime'), {}
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, CLASS) == class then
      times[string.sub(all[i], CLASS + 1)] = tonumber(all[i + 1])
    end
  end
  return times
end

local function set_virtual_time(class, variant, time)
  redis.call('HSET', prefix .. 'vtime', class .. variant, string.format('%.0f', time))
end

-- Where the client's next job starts.
local function start_tag(class, variant, client)
  local times = virtual_times(class)
  local time = times[variant] or 0
  if not waits(variant, class) then -- nobody there who would be overtaken: the line begins where the furthest is
    for _, other in pairs(times) do
      time = math.max(time, other)
    end
    set_virtual_time(class, variant, time)
  end
  return math.max(time, number(redis.call('ZSCORE', prefix .. 'tags:' .. class, client)))
end

-- Finish tags in every line's past say nothing any more, and where nobody waits none does.
local function forget_tags(class)
  local past
  for variant, time in pairs(virtual_times(class)) do
    if waits(variant, class) then
      past = math.min(past or time, time)
    end
  end
  if past then
    redis.call('ZREMRANGEBYSCORE', prefix .. 'tags:' .. class, '-inf', past)
  else
    redis.call('DEL', prefix .. 'tags:' .. class)
  end
end

-- What is taken moves the virtual time on, for all lines of whoever took it.
local function advance(place, variants)
  local class, tag = string.sub(place, 1, CLASS), tonumber(string.sub(place, CLASS + 1, CLASS + 20))
  local times = virtual_times(class)
  for _, variant in ipairs(variants) do
    if tag > (times[variant] or -1) then
      set_virtual_time(class, variant, tag)
    end
  end
end

-- Count a client's waiting jobs, by `count` and `cost`, and the weight of the clients who have some.
local function count_waiting(client, weight, count, cost)
  local key = prefix .. 'client:' .. client
  local waiting = redis.call('HINCRBY', key, 'waiting', count)
  redis.call('HINCRBY', key, 'cost', cost)
  redis.call('HINCRBY', totals, 'waiting', count)
  if count > 0 and waiting == 1 then
    redis.call('HSET', key, 'weight', weight)
    redis.call('HINCRBY', totals, 'weight', weight)
  elseif waiting == 0 then
    redis.call('HINCRBY', totals, 'weight', -redis.call('HGET', key, 'weight'))
  end
end

-- Put a job in line at its place. One that comes back finds its old one.
local function enter_line(id)
  local key = job_key(id)
  local job = redis.call('HMGET', key, 'variant', 'place', 'client', 'weight', 'cost', 'created_at')
  redis.call('HSET', key, 'state', 'queued', 'tiles_done', 0)
  redis.call('HDEL', key, 'started_at')
  redis.call('ZREM', prefix .. 'leases', id)
  redis.call('ZADD', waiting_key(job[1]), 0, job[2])
  redis.call('ZADD', since_key(job[1]), job[6], id)
  redis.call('HINCRBY', prefix .. 'backlog', job[1], job[5])
  count_waiting(job[3], job[4], 1, job[5])
  redis.call('XADD', prefix .. 'arrivals', 'MAXLEN', 1, '*', 'id', id)
  tell(id, 'queued', 0, 0)
end

-- Take a job out of its line, if it is there. What it would have had of its client's share it leaves to the client's
-- next one; but once it was taken by a worker, it has had its turn.
local function leave_line(id, taken)
  local job = redis.call('HMGET', job_key(id), 'variant', 'place', 'client', 'weight', 'cost', 'span')
  if redis.call('ZREM', waiting_key(job[1]), job[2]) == 0 then
    return
  end
  redis.call('ZREM', since_key(job[1]), id)
  if redis.call('HINCRBY', prefix .. 'backlog', job[1], -job[5]) == 0 then
    redis.call('HDEL', prefix .. 'backlog', job[1])
  end
  count_waiting(job[3], job[4], -1, -job[5])
  local class = string.sub(job[2], 1, CLASS)
  if taken then
    redis.call('HSET', job_key(id), 'span', 0)
  elseif redis.call('ZSCORE', prefix .. 'tags:' .. class, job[3]) then
    redis.call('ZINCRBY', prefix .. 'tags:' .. class, -job[6], job[3])
  end
  forget_tags(class)
end
