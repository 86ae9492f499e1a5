-- ARGV: id, attempt, result, ttl, bytes of the result, device seconds → 1, or 0 when this attempt holds the job no more.
even_when_full()
local id, attempt, result, ttl, bytes, seconds = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local KEPT = 0.95 -- of what was learned before, at each job: about the last twenty count

if was_done(id, attempt, 'succeeded') then
  return 1
end
if not held(id, attempt) then
  return 0
end
local job = redis.call('HMGET', job_key(id), 'variant', 'cost', 'tiles_total')
if seconds > 0 then -- seconds and megapixels apart: their ratio is right for a mix of large and small photos
  local of_late = { ['seconds:'] = seconds, ['megapixels:'] = job[2] / MICRO }
  for what, amount in pairs(of_late) do
    local before = number(redis.call('HGET', prefix .. 'learned', what .. job[1]))
    redis.call('HSET', prefix .. 'learned', what .. job[1], before * KEPT + amount)
  end
end
redis.call('HSET', job_key(id), 'tiles_done', job[3])
redis.call('HINCRBY', prefix .. 'files', id, bytes)
redis.call('HINCRBY', totals, 'stored', bytes)
settle(id, 'succeeded', ttl, 'result', result)
return 1
