-- ARGV: id… → those of them that are known.
local found = {}
for _, id in ipairs(ARGV) do
  if redis.call('EXISTS', job_key(id)) == 1 then
    found[#found + 1] = id
  end
end
return found
