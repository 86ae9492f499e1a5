-- → the ids of the jobs that run, then of those that wait.
local ids = redis.call('ZRANGE', prefix .. 'leases', 0, -1)
local variants = redis.call('HKEYS', prefix .. 'backlog')
table.sort(variants)
for _, variant in ipairs(variants) do
  for _, place in ipairs(redis.call('ZRANGE', waiting_key(variant), 0, -1)) do
    ids[#ids + 1] = id_at(place)
  end
end
return ids
