-- ARGV: how many → the ids of jobs whose files may go, the longest overdue first.
return redis.call('ZRANGEBYSCORE', prefix .. 'expiring', '-inf', stamp(now()), 'LIMIT', 0, ARGV[1])
