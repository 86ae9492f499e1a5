-- ARGV: ttl, ttl of a dead letter, deliveries allowed, problem of a job whose workers died, problem of one past its
-- deadline, seconds that an asker may be silent, seconds a variant may be unknown, problem of a job that waits for longer
-- → [jobs put back in line, given up, past their deadline, asked for by nobody].
even_when_full()
local ttl, dead_ttl, max_attempts = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local died, too_late, attend_s, known_s, forgotten = ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local MOST = 1000 -- of each kind in one call: the server has others to answer, too
local OUTAGE_S = 5 -- this script runs about once a second, unless the server, or every worker, was away
local time = now()

local function overdue(set)
  return redis.call('ZRANGEBYSCORE', prefix .. set, '-inf', stamp(time), 'LIMIT', 0, MOST)
end

local function take_back_leases()
  local again, given_up = 0, 0
  for _, id in ipairs(overdue('leases')) do
    if again_or_give_up(id, max_attempts, dead_ttl, died) then
      again = again + 1
    else
      given_up = given_up + 1
    end
  end
  return again, given_up
end

-- After an outage nobody could have asked: everybody gets the time to ask again.
local function drop_abandoned()
  local seen = redis.call('HMGET', totals, 'judged_at', 'judged_from')
  redis.call('HSET', totals, 'judged_at', stamp(time))
  if seen[1] and time - seen[1] > OUTAGE_S then
    redis.call('HSET', totals, 'judged_from', stamp(time + attend_s))
    return 0
  elseif time < number(seen[2]) then
    return 0
  end
  local abandoned = overdue('attended')
  for _, id in ipairs(abandoned) do
    call_off(id, 'cancelled', ttl)
  end
  return #abandoned
end

local function drop_unserved()
  local long_ago = stamp(time - known_s)
  for _, variant in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'variants:known', '-inf', long_ago)) do
    for _, place in ipairs(redis.call('ZRANGE', waiting_key(variant), 0, MOST - 1)) do
      settle(id_at(place), 'failed', ttl, 'error', forgotten)
    end
    if redis.call('ZCARD', waiting_key(variant)) == 0 then
      redis.call('ZREM', prefix .. 'variants:known', variant)
      redis.call('HDEL', prefix .. 'variants', variant)
      redis.call('HDEL', prefix .. 'learned', 'seconds:' .. variant, 'megapixels:' .. variant)
    end
  end
end

local late = overdue('deadlines')
for _, id in ipairs(late) do
  call_off(id, 'failed', ttl, 'error', too_late)
end
local again, given_up = take_back_leases()
local abandoned = drop_abandoned()
drop_unserved()
redis.call('ZREMRANGEBYSCORE', prefix .. 'dead', '-inf', stamp(time))
return { again, given_up, #late, abandoned }
