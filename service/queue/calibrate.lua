-- ARGV: variant, seconds per megapixel → 1, or 0 when something is known already.
local learned, variant = prefix .. 'learned', ARGV[1]
if redis.call('HSETNX', learned, 'seconds:' .. variant, ARGV[2]) == 0 then
  return 0
end
return redis.call('HSET', learned, 'megapixels:' .. variant, 1)
