-- ARGV: id → [the job's hash, its position in line (-1: it does not wait), seconds to its end or ''], of one moment.
local id = ARGV[1]
local hash = redis.call('HGETALL', job_key(id))
if #hash == 0 then
  return {}
end
local job = {}
for i = 1, #hash, 2 do
  job[hash[i]] = hash[i + 1]
end

-- The cost in front of a waiting job is taken to be the mean of the line, once for each job there.
local function to_the_end(rank)
  local speed = seconds_per_megapixel(job.variant)
  if job.state == 'queued' and speed then
    local line = number(redis.call('HGET', prefix .. 'backlog', job.variant))
    local in_front = line * rank / redis.call('ZCARD', waiting_key(job.variant))
    return (in_front / servers(job.variant) + job.cost) / MICRO * speed
  elseif job.state == 'running' then
    local done, total = tonumber(job.tiles_done), tonumber(job.tiles_total)
    local left = total > 0 and 1 - done / total or 1
    if speed then
      return left * job.cost / MICRO * speed
    end
    return done > 0 and (now() - job.started_at) / done * (total - done)
  end
end

local rank = position(id)
local seconds = to_the_end(rank)
return { hash, rank, seconds and stamp(seconds) or '' }
