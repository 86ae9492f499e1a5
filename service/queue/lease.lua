-- ARGV: token, worker, lease seconds, count, ttl, problem of a job past its deadline, number of clients whose jobs are
-- not asked for, client…, variant…
-- → [job, attempt, seconds waited, 1 after a failed delivery]…
-- The token names this call: a retry after a lost answer gets the same jobs once more, not passed_over.
even_when_full()
local token, worker, lease_s, count = prefix .. 'lease:' .. ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local ttl, too_late = tonumber(ARGV[5]), ARGV[6]
local passed_over, first_variant = {}, 8 + ARGV[7]
for i = 8, first_variant - 1 do
  passed_over[ARGV[i]] = true
end
local variants = { unpack(ARGV, first_variant) }
local MOST_DROPPED = 1000 -- of one call: the server has passed_over to answer, too
local time = now()

local function answer(id)
  local job = redis.call('HMGET', job_key(id), 'job', 'attempt', 'created_at', 'released')
  return { job[1], job[2], stamp(time - job[3]), job[2] - job[4] > 1 and 1 or 0 }
end

local function first_place()
  local first
  for _, variant in ipairs(variants) do
    local head = redis.call('ZRANGE', waiting_key(variant), 0, 0)[1]
    if head and (not first or string.sub(head, 1, PLACE) < string.sub(first, 1, PLACE)) then
      first = head
    end
  end
  return first
end

local function late(id)
  local deadline = redis.call('ZSCORE', prefix .. 'deadlines', id)
  return deadline and tonumber(deadline) <= time
end

local function take(place)
  local id = id_at(place)
  advance(place, variants)
  leave_line(id, true)
  local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
  redis.call('HSET', job_key(id), 'state', 'running', 'started_at', stamp(time), 'worker', worker)
  redis.call('ZADD', prefix .. 'leases', time + lease_s, id)
  redis.call('RPUSH', token, id, attempt)
  tell(id, 'progress', 0, 0)
  return answer(id)
end

local leased, dropped = {}, 0
local before = redis.call('LRANGE', token, 0, -1)
if #before > 0 then
  for i = 1, #before, 2 do
    if held(before[i], before[i + 1]) then
      leased[#leased + 1] = answer(before[i])
    end
  end
  return leased
end

while #leased < count and dropped < MOST_DROPPED do
  local place = first_place()
  if not place then
    break
  elseif late(id_at(place)) then
    settle(id_at(place), 'failed', ttl, 'error', too_late)
    dropped = dropped + 1
  elseif passed_over[redis.call('HGET', job_key(id_at(place)), 'client')] then
    break -- whoever comes new is next in line before those who have many there
  else
    leased[#leased + 1] = take(place)
  end
end
if #leased > 0 then
  redis.call('PEXPIRE', token, math.ceil(lease_s * 1000))
end
return leased
