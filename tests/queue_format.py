"""What a queue of this release leaves in Redis, as a file that later releases must be able to go on with.

`python -m tests.queue_format` writes it anew: only when the format has changed on purpose, by the rules in
docs/operations.md, Upgrading.
"""

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from redis.asyncio import Redis

from service.job import VariantInfo
from service.queue.embedded import EmbeddedServer
from service.queue.queue import Queue
from tests.jobs import PROBLEM, RESULT, job

FILE = Path(__file__).parent / "data" / "queue-format-1.json"
FOREVER_S = 1e9
WORKER = "host-1-abcdef"
VARIANT = VariantInfo(
    name="m", family="sd", base="b", mid_timestep=1, native_size=64, process_size=64, license="MIT", color_fix="adain"
)

Dump = dict[str, tuple[str, Any]]
"""Type and value by key, the namespace left out."""


def queue_of(url: str, namespace: str) -> Queue:
    """One in which nothing runs out."""
    terms = ("lease_s", "result_ttl_s", "dead_ttl_s", "attend_s", "variants_known_s")
    return Queue(url, namespace=namespace, **dict.fromkeys(terms, FOREVER_S))


async def fill(queue: Queue) -> None:
    """A job in each state that a release may leave behind."""
    await queue.register(WORKER, [VARIANT], FOREVER_S)
    await queue.calibrate("m", 0.5)
    for name in ("done", "runs", "dead"):
        await queue.submit(job(name, client="me", weight=2, key=f"key of {name}", digest="d"))
        [leased] = await queue.lease(["m"], WORKER, 1)
        await queue.progress(name, leased.attempt, 1, 4)
        if name == "done":
            await queue.finish(name, leased.attempt, RESULT.model_copy(update={"seconds": {"predict": 1.0}}))
        elif name == "dead":
            await queue.fail(name, leased.attempt, PROBLEM, dead=True)
    await queue.submit(job("off"))
    await queue.lease(["m"], WORKER, 1)
    await queue.cancel("off")
    await queue.submit(job("waits", priority=1, attended=True))
    await queue.submit(job("late", deadline_s=0.001))


async def dump(server: "Redis[str]", namespace: str) -> Dump:
    prefix, found = f"{{{namespace}}}:", Dump()
    async for key in server.scan_iter(f"{{{namespace}}}:*"):
        name, kind = key.removeprefix(prefix), await server.type(key)
        if not name.startswith("lease:"):  # the answer to one call, for its repetition
            found[name] = (kind, await READ[kind](server, key))
    return dict(sorted(found.items()))


READ: dict[str, Any] = {
    "string": lambda server, key: server.get(key),
    "hash": lambda server, key: server.hgetall(key),
    "zset": lambda server, key: server.zrange(key, 0, -1, withscores=True),
    "stream": lambda server, key: server.xrange(key),
}


async def restore(server: "Redis[str]", namespace: str, left: Dump) -> None:
    for name, (kind, value) in left.items():
        key = f"{{{namespace}}}:{name}"
        if kind == "string":
            await server.set(key, value)
        elif kind == "hash":
            await server.hset(key, mapping=value)
        elif kind == "zset":
            await server.zadd(key, dict(value))
        else:
            for entry, fields in value:
                await server.xadd(key, fields, id=entry)


def shape(left: Dump) -> dict[str, Any]:
    """Keys, types, fields, members; no figures and no times."""
    return {name: (kind, _inside(kind, value)) for name, (kind, value) in left.items()}


def _inside(kind: str, value: Any) -> Any:
    if kind == "hash":
        return {field: _fields(text) for field, text in sorted(value.items())}
    if kind == "zset":
        return sorted(member for member, _ in value)
    return sorted(value[0][1]) if kind == "stream" else None


def _fields(text: str) -> Any:
    told = json.loads(text) if text.startswith("{") else None
    return {name: sorted(each) if isinstance(each, dict) else None for name, each in told.items()} if told else None


async def main() -> None:
    with TemporaryDirectory(prefix="omgsr-") as folder, EmbeddedServer(Path(folder)) as embedded:
        async with queue_of(embedded.url, "omgsr") as queue, Redis.from_url(embedded.url, decode_responses=True) as to:
            await fill(queue)
            FILE.write_text(json.dumps(await dump(to, "omgsr"), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
