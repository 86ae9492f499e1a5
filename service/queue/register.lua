-- ARGV: worker, seconds until it counts as gone, seconds its variants stay known, (name, info)…
-- A variant outlives its worker, so that a job waits for the worker's replacement instead of being refused.
local time = now()
redis.call('ZADD', prefix .. 'workers', time + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', prefix .. 'workers', '-inf', time)
for i = 4, #ARGV, 2 do
  redis.call('HSET', prefix .. 'variants', ARGV[i], ARGV[i + 1])
  redis.call('ZADD', prefix .. 'variants:known', time + tonumber(ARGV[3]), ARGV[i])
end
return 1
