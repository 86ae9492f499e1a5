-- ARGV: lease seconds, (id, attempt)… → the ids that are still held.
even_when_full()
local ends = now() + tonumber(ARGV[1])
local still = {}
for i = 2, #ARGV, 2 do
  if held(ARGV[i], ARGV[i + 1]) then
    redis.call('ZADD', prefix .. 'leases', ends, ARGV[i])
    still[#still + 1] = ARGV[i]
  end
end
return still
