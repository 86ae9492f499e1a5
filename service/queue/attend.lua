-- ARGV: seconds, id… → 1. Somebody still waits for these jobs, and says so again within so many seconds.
even_when_full()
local till = stamp(now() + ARGV[1])
for i = 2, #ARGV do
  redis.call('ZADD', prefix .. 'attended', 'XX', till, ARGV[i])
end
return 1
