-- → [workers alive, bytes stored, dead letters, (variant's info, jobs waiting for it, their megapixels, seconds that the
-- oldest of them has waited, learned seconds per megapixel or '')…], first the variants that a live worker serves, by
-- name.
local time = now()
local fleet = {
  redis.call('ZCOUNT', prefix .. 'workers', time, '+inf'),
  number(redis.call('HGET', totals, 'stored')),
  redis.call('ZCOUNT', prefix .. 'dead', time, '+inf'),
}

local function waited(name)
  local oldest = redis.call('ZRANGE', since_key(name), 0, 0, 'WITHSCORES')
  while oldest[1] and redis.call('HGET', job_key(oldest[1]), 'state') ~= 'queued' do
    redis.call('ZREM', since_key(name), oldest[1]) -- left there by a release that did not keep this set
    oldest = redis.call('ZRANGE', since_key(name), 0, 0, 'WITHSCORES')
  end
  return math.max(0, time - (oldest[2] or time))
end

local live, missed = {}, {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'variants:known', '(' .. stamp(time), '+inf')) do
  local served = redis.call('ZCOUNT', serving_key(name), time, '+inf') > 0
  table.insert(served and live or missed, name)
end
for _, names in ipairs({ live, missed }) do
  table.sort(names)
  for _, name in ipairs(names) do
    fleet[#fleet + 1] = redis.call('HGET', prefix .. 'variants', name)
    fleet[#fleet + 1] = redis.call('ZCARD', waiting_key(name))
    fleet[#fleet + 1] = stamp(number(redis.call('HGET', prefix .. 'backlog', name)) / MICRO)
    fleet[#fleet + 1] = stamp(waited(name))
    fleet[#fleet + 1] = tostring(seconds_per_megapixel(name) or '')
  end
end
return fleet
