-- → [workers alive, (variant's info, jobs waiting for it)…]
local time = now()
local known = redis.call('ZRANGEBYSCORE', prefix .. 'variants:known', time, '+inf')
local fleet = { redis.call('ZCOUNT', prefix .. 'workers', time, '+inf') }
for _, name in ipairs(known) do
  fleet[#fleet + 1] = redis.call('HGET', prefix .. 'variants', name)
  fleet[#fleet + 1] = redis.call('ZCARD', waiting_key(name))
end
return fleet
