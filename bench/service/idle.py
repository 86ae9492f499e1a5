"""What the service adds to one request while it has nothing else to do (stub device)."""

import asyncio
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

import numpy as np

from bench.service.load import Seen, photos, timings
from bench.table import Table
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
        client, seen = HTTPConnection(service.url.removeprefix("http://")), Seen()
        for _ in range(3):
            _send(client, photo, Seen())  # what a first request makes is made
        for _ in range(round(requests)):
            began = time.perf_counter()
            _send(client, photo, seen)
            await asyncio.sleep(max(0.0, began + 1 - time.perf_counter()))
    parts = [sum(timing.get(stage, 0.0) for stage in STAGES) for timing in seen.timings]
    added = 1000 * (np.array(seen.seconds) - np.array(parts))
    p50, p99 = float(np.percentile(added, 50)), float(np.percentile(added, 99))
    table.rows.append((len(added), seen.percentile(0.5), p50, p99))
    table.claim(f"the service adds {p99:.1f} ms at p99 (less than 15), codecs apart", holds=p99 < 15)
    # Whatever its tile waits for is part of what is added.
    longest, bound = float(added.max()), service.settings.max_wait_ms + 5
    table.claim(
        f"so a lone tile waits at most {longest:.1f} ms (maximum wait + 5 = {bound:.0f})", holds=longest <= bound
    )
    return table


def _send(client: HTTPConnection, photo: bytes, seen: Seen) -> None:
    """By the leanest client there is: its own time, cold after a second of sleep, is not the service's."""
    began = time.perf_counter()
    client.request("POST", "/v1/upscale?format=jpeg", photo, {"Content-Type": "image/jpeg"})
    answer = client.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    seen.seconds.append(time.perf_counter() - began)
    seen.timings.append(timings(answer.headers["Server-Timing"]))
