-- ARGV: ttl, deliveries allowed, problem, seconds a variant may be unknown, problem of a job that waits for longer
-- → how many jobs were taken back from workers that fell silent.
local ttl, max_attempts, problem = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local lost = redis.call('ZRANGEBYSCORE', prefix .. 'leases', '-inf', now(), 'LIMIT', 0, 100)
for _, id in ipairs(lost) do
  again_or_fail(id, max_attempts, ttl, problem)
end
local long_ago = stamp(now() - tonumber(ARGV[4]))
for _, variant in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'variants:known', '-inf', long_ago)) do
  for _, id in ipairs(redis.call('ZRANGE', waiting_key(variant), 0, 99)) do
    settle(id, 'failed', ttl, 'error', ARGV[5])
  end
end
return #lost
