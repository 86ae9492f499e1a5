-- → the ids of the jobs that run, then of those that wait.
local ids = redis.call('ZRANGE', prefix .. 'leases', 0, -1)
for _, variant in ipairs(redis.call('ZRANGE', prefix .. 'variants:known', 0, -1)) do
  for _, id in ipairs(redis.call('ZRANGE', waiting_key(variant), 0, -1)) do
    ids[#ids + 1] = id
  end
end
return ids
