-- ARGV: id of a dead letter, the new job that takes its place → 1, or 0 when there is no such letter.
local letter, job = ARGV[1], ARGV[2]
if redis.call('EXISTS', job_key(cjson.decode(job).id)) == 1 then -- a retry after a lost answer
  return 1
end
if not redis.call('ZSCORE', prefix .. 'dead', letter) then
  return 0
end
accept(job, 0)
remove_letter(letter)
return 1
