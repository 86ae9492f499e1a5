-- ARGV: worker, seconds until it counts as gone (0: it leaves), seconds its variants stay known, (name, info)… → how many workers are alive.
-- A variant outlives a worker that died, so that a job waits for the replacement instead of being refused. What a
-- worker that leaves in good order served alone is known no more.
even_when_full()
local time, worker, ttl, known_s = now(), ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function beat(zset)
  redis.call('ZADD', zset, time + ttl, worker)
  redis.call('ZREMRANGEBYSCORE', zset, '-inf', time)
end

beat(prefix .. 'workers')
for i = 4, #ARGV, 2 do
  local name = ARGV[i]
  beat(serving_key(name))
  redis.call('HSET', prefix .. 'variants', name, ARGV[i + 1])
  if ttl > 0 then
    redis.call('ZADD', prefix .. 'variants:known', time + known_s, name)
  elseif redis.call('ZCARD', serving_key(name)) == 0 then
    redis.call('ZADD', prefix .. 'variants:known', time, name)
  end
end
return redis.call('ZCARD', prefix .. 'workers')
