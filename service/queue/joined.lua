-- ARGV: client, idempotency key, digest → [joined, id, position], [reused], or nothing when the key is free.
return known_by(ARGV[1], ARGV[2], ARGV[3])
