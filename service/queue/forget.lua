-- ARGV: ids of jobs whose files are gone → 1. Another sweep may have come first: what is forgotten counts once.
for _, id in ipairs(ARGV) do
  if redis.call('ZREM', prefix .. 'expiring', id) == 1 then
    redis.call('HINCRBY', totals, 'stored', -number(redis.call('HGET', prefix .. 'files', id)))
    redis.call('HDEL', prefix .. 'files', id)
  end
end
return 1
