-- ARGV: token, worker, lease seconds, count, variant… → [job, attempt, seconds waited, 1 after a failed delivery]…
-- The token names this call: a retry after a lost answer gets the same jobs once more, not others.
local token, worker, lease_s, count = prefix .. 'lease:' .. ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = now()

local function answer(id)
  local job = redis.call('HMGET', job_key(id), 'job', 'attempt', 'created_at', 'released')
  local suspect = tonumber(job[2]) - tonumber(job[4]) > 1
  return { job[1], job[2], stamp(time - tonumber(job[3])), suspect and 1 or 0 }
end

local function next_job()
  local best, best_score, best_variant
  for i = 5, #ARGV do
    local head = redis.call('ZRANGE', waiting_key(ARGV[i]), 0, 0, 'WITHSCORES')
    if head[1] and (not best or tonumber(head[2]) < best_score) then
      best, best_score, best_variant = head[1], tonumber(head[2]), ARGV[i]
    end
  end
  return best, best_variant
end

local leased = {}
local before = redis.call('LRANGE', token, 0, -1)
if #before > 0 then
  for i = 1, #before, 2 do
    if held(before[i], before[i + 1]) then
      leased[#leased + 1] = answer(before[i])
    end
  end
  return leased
end

while #leased < count do
  local id, variant = next_job()
  if not id then
    break
  end
  redis.call('ZREM', waiting_key(variant), id)
  local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
  redis.call('HSET', job_key(id), 'state', 'running', 'started_at', stamp(time), 'worker', worker)
  redis.call('ZADD', prefix .. 'leases', time + lease_s, id)
  redis.call('RPUSH', token, id, attempt)
  tell(id, 'progress', 0, 0)
  leased[#leased + 1] = answer(id)
end
if #leased > 0 then
  redis.call('PEXPIRE', token, math.ceil(lease_s * 1000))
end
return leased
