-- ARGV: id → [the job's hash, its position in line (-1: it does not wait)], both of one moment.
local id = ARGV[1]
local hash = redis.call('HGETALL', job_key(id))
if #hash == 0 then
  return {}
end
local variant = redis.call('HGET', job_key(id), 'variant')
return { hash, redis.call('ZRANK', waiting_key(variant), id) or -1 }
