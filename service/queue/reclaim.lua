-- ARGV: ttl, deliveries allowed, problem → how many jobs were taken back from workers that fell silent.
local ttl, max_attempts, problem = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local lost = redis.call('ZRANGEBYSCORE', prefix .. 'leases', '-inf', now(), 'LIMIT', 0, 100)
for _, id in ipairs(lost) do
  again_or_fail(id, max_attempts, ttl, problem)
end
return #lost
