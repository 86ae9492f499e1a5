-- ARGV: seconds → 1 when it is time to look through the whole store; then not again, for anybody, for so long.
return redis.call('SET', prefix .. 'listing', 1, 'NX', 'PX', math.max(1, math.ceil(ARGV[1] * 1000))) and 1 or 0
