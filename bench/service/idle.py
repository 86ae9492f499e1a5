"""What the service adds to one request while it has nothing else to do (stub device)."""

import asyncio
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

from bench.service.load import Seen, photos, rest
from bench.service.table import Table
from tests.running import running_stub

STAGES = ("encode", "predict", "decode", "decode_file", "encode_file")
"""The device's own time and the file codecs'."""


async def measure(requests: float) -> Table:
    """One request a second; what of it is neither the device's nor a file codec's."""
    table = Table(
        "One request a second (stub device)",
        "python -m bench.service idle",
        ("requests", "p50 s", "added: p50 ms", "p99 ms"),
    )
    (photo,) = photos(1, (16, 16))
    with tempfile.TemporaryDirectory(prefix="omgsr-") as state, running_stub(Path(state), fsync="everysec") as service:
        async with httpx.AsyncClient(base_url=service.url) as client:
            send, seen = rest(client, format="jpeg"), Seen()
            for _ in range(3):
                await send(photo, Seen())  # what a first request makes is made
            for _ in range(round(requests)):
                began = time.perf_counter()
                await send(photo, seen)
                await asyncio.sleep(max(0.0, began + 1 - time.perf_counter()))
    parts = [sum(timing.get(stage, 0.0) for stage in STAGES) for timing in seen.timings]
    added = 1000 * (np.array(seen.seconds) - np.array(parts))
    p50, p99 = float(np.percentile(added, 50)), float(np.percentile(added, 99))
    table.rows.append((len(added), seen.percentile(0.5), p50, p99))
    table.claim(f"the service adds {p99:.1f} ms at p99 (less than 15), codecs apart", holds=p99 < 15)
    return table
