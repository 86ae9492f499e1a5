-- → the ids of the dead letters, the oldest first.
return redis.call('ZRANGEBYSCORE', prefix .. 'dead', '(' .. stamp(now()), '+inf')
