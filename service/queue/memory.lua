-- → [bytes of memory that the server uses, bytes that it may use (0: no bound)], or nothing when it does not tell us.
local told = redis.pcall('INFO', 'memory')
local used = type(told) == 'string' and string.match(told, 'used_memory:(%d+)')
return used and { used, string.match(told, 'maxmemory:(%d+)') or '0' }
