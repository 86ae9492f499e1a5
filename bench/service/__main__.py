"""Measure the running service, and write what was seen as docs/service-figures.md.

python -m bench.service [NAME…] [--full] [--out docs/service-figures.md]
"""

import argparse
import asyncio
import datetime
import os
import platform
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.service import batching, fairness, idle, mini, scaling
from bench.table import Table

# Each with its argument in the full form (seconds, or jobs); the short form has a tenth.
MEASUREMENTS: dict[str, tuple[Callable[[float], Awaitable[Table]], float]] = {
    "load": (mini.load, 180),
    "overhead": (mini.overhead, 60),
    "idle": (idle.measure, 200),
    "batching": (batching.measure, 30),
    "fairness": (fairness.measure, 100),
    "scaling": (scaling.measure, 16),
}


async def measure(names: list[str], *, full: bool) -> list[Table]:
    tables = []
    for name in names or MEASUREMENTS:
        run, long = MEASUREMENTS[name]
        tables.append(await run(long if full else long / 10))
        print(tables[-1].markdown())
    return tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*MEASUREMENTS, []])
    parser.add_argument("--full", action="store_true", help="the full times; a tenth otherwise")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    tables = asyncio.run(measure(given.names, full=given.full))
    if given.out:
        today = datetime.datetime.now(tz=datetime.UTC).date()
        head = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, no GPU, {today}"
        text = "\n".join(table.markdown() for table in tables)
        given.out.write_text(f"# The service in figures\n\nMeasured on {head}; `make soak` makes this page.\n\n{text}")
    return 0 if all(table.holds for table in tables) else 1


if __name__ == "__main__":
    sys.exit(main())
