-- ARGV: id of a dead letter → 1, or 0 when there is none.
if not redis.call('ZSCORE', prefix .. 'dead', ARGV[1]) then
  return 0
end
remove_letter(ARGV[1])
return 1
