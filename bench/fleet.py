"""How far one queue carries: from what calls cost, measured here, to 1,000 GPUs, by reckoning.

    python -m bench.fleet [--price 1.0] [--busy 0.7] [--out docs/scaling.md] [--plot docs/scaling.png]

A closed model, no clock: N GPUs at work the share `busy` of their time make N·busy/s images a second, where s is a
GPU's seconds for an image. Every image costs the queue's server its calls; every worker costs it heartbeats and looks;
and every process that follows a stream is told of every entry. The server has one thread: where the sum reaches one
core it is full, and from SAFE on its answers become slow. Costs of calls are measured on the machine that runs this;
seconds for an image are the paper's, on an L40S (table 1 there); prices and file sizes are assumptions.
"""

import argparse
import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from matplotlib.figure import Figure

from bench.cli import BEGIN, END
from bench.queue_costs import Costs, measured
from bench.table import Table
from service.settings import Settings
from service.worker.process import LONGEST_PAUSE_S

COMMAND = "python -m bench.fleet"
PAPER_SECONDS = {"S-512": 0.0648, "F-512": 0.2066, "F-1k": 0.7947}
"""An image on an L40S, as the paper says; not measured here."""
RESULT_MB = {"S-512": 0.5, "F-512": 0.5, "F-1k": 2.0}
"""Of a PNG: an assumption."""
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
SAFE = 0.7
"""Of a core: beyond it calls wait for each other more than they take."""
API_CPU_S = 0.0055
"""An API process's seconds for an image: `python -m bench.service scaling`, cores over images a second (2026-11-24)."""
API_BUSY = 0.6
CALLED_OFF = 0.01
"""Of all jobs, by clients who leave and by deadlines: an assumption. Every worker is told."""
READS_PER_S = 500
"""A process that follows a stream reads so often at most, and is told of all that came since at once."""
DEFAULTS = Settings.model_construct(**{name: field.default for name, field in Settings.model_fields.items()})


@dataclass(frozen=True)
class Fleet:
    """GPUs of one kind behind one queue."""

    gpus: int
    seconds: float
    """Of a GPU for an image."""
    busy: float

    @property
    def per_second(self) -> float:
        """Images."""
        return self.gpus * self.busy / self.seconds

    @property
    def apis(self) -> int:
        """Processes."""
        return max(1, -int(-self.per_second * API_CPU_S // API_BUSY))

    def load(self, costs: Costs) -> dict[str, float]:
        """Cores of the queue's server, by what takes them."""
        rate, beat = self.per_second, 3 / DEFAULTS.lease_s
        image = costs.submit + 2 * costs.status + costs.lease + 2 * costs.progress + costs.finish
        beats = beat * (costs.register + costs.renew) + costs.reclaim
        looks = min(rate, 1 / min(self.gpus * DEFAULTS.max_wait_ms / 1000, LONGEST_PAUSE_S))
        return {
            "images": rate * image,
            "heartbeats": self.gpus * beats,
            "looks": self.gpus * looks * (costs.wake + costs.lease_nothing),
            "called off": self.gpus * _told(CALLED_OFF * rate, costs),
            "ends": self.apis * _told(rate, costs),
        }


def _told(rate: float, costs: Costs) -> float:
    reads = min(rate, READS_PER_S)
    return reads * costs.wake + (rate - reads) * costs.entry


def most(seconds: float, busy: float, costs: Costs) -> int:
    """GPUs that one server carries."""
    gpus = 1
    while sum(Fleet(gpus + 1, seconds, busy).load(costs).values()) < SAFE:
        gpus += 1
    return gpus


def costs_table(costs: Costs) -> Table:
    """What was measured."""
    table = Table("What a call costs the queue's server", COMMAND, ("call", "µs of its main thread"))
    for each in fields(costs):
        if each.name != "waiting_bytes":
            table.rows.append((each.name.replace("_", " "), getattr(costs, each.name) * 1e6))
    table.notes.append(f"a job in line takes {costs.waiting_bytes:,.0f} bytes of the server's memory")
    table.notes.append(f"measured on {os.cpu_count()} cores that the client shared, with the embedded server")
    return table


def fleet_table(costs: Costs, busy: float) -> Table:
    """One queue and more and more GPUs."""
    parts = list(Fleet(1, 1, 1).load(costs))
    table = Table(
        f"One queue, GPUs busy {100 * busy:.0f} % of the time (cores of its server)",
        COMMAND,
        ("variant", "GPUs", "images/s", "APIs", "MB/s of results", *parts, "all"),
    )
    for variant, seconds in PAPER_SECONDS.items():
        for gpus in GPUS:
            fleet = Fleet(gpus, seconds, busy)
            load = fleet.load(costs)
            shown = [f"{cores:.3f}" for cores in (*load.values(), sum(load.values()))]
            megabytes = f"{fleet.per_second * RESULT_MB[variant]:.0f}"
            table.rows.append((variant, gpus, f"{fleet.per_second:.0f}", fleet.apis, megabytes, *shown))
    return table


def shards_table(costs: Costs, busy: float) -> Table:
    """Where one server is full, and how many a thousand GPUs need."""
    table = Table(
        f"Where to split (a server at {SAFE:g} of a core)",
        COMMAND,
        ("variant", "most GPUs on one queue", "images/s there", "queues for 1,000 GPUs"),
    )
    for variant, seconds in PAPER_SECONDS.items():
        gpus = most(seconds, busy, costs)
        table.rows.append((variant, gpus, f"{Fleet(gpus, seconds, busy).per_second:.0f}", -(-1000 // gpus)))
    return table


def money_table(busy: float, price: float) -> Table:
    """What a million images cost."""
    table = Table(
        f"A million images at {price:.2f} a GPU-hour (an assumption: --price)",
        COMMAND,
        ("variant", "s an image (paper, L40S)", "GPU-hours at work", "GPU-hours paid", "cost", "API core-hours"),
    )
    for variant, seconds in PAPER_SECONDS.items():
        hours = seconds * 1e6 / 3600
        core_hours = API_CPU_S / API_BUSY * 1e6 / 3600
        table.rows.append((variant, seconds, hours, hours / busy, hours / busy * price, core_hours))
    table.notes.append(f"paid for are GPUs that work {100 * busy:.0f} % of the time; stores and traffic are not in it")
    return table


def plot(costs: Costs, busy: float, path: Path) -> None:
    """Load of the queue's server over GPUs."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for variant, seconds in PAPER_SECONDS.items():
        loads = [sum(Fleet(gpus, seconds, busy).load(costs).values()) for gpus in range(1, 1001)]
        axes.loglog(range(1, 1001), loads, label=variant)
    axes.axhline(1, color="black", linewidth=0.8, label="full")
    axes.axhline(SAFE, color="black", linewidth=0.8, linestyle="--", label="slow from here on")
    axes.set(xlabel="GPUs on one queue", ylabel="cores of the queue's server")
    axes.legend()
    figure.savefig(path, dpi=90)


def page(costs: Costs, busy: float, price: float) -> str:
    """The tables."""
    tables: Sequence[Table] = (
        *(costs_table(costs), fleet_table(costs, busy), shards_table(costs, busy), money_table(busy, price)),
    )
    return "\n".join(table.markdown("###") for table in tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--price", type=float, default=1.0, help="of a GPU-hour, in your currency")
    parser.add_argument("--busy", type=float, default=0.7, help="share of the time that GPUs work")
    parser.add_argument("--out", type=Path, help="a page to write into, between its marks")
    parser.add_argument("--plot", type=Path, help="a picture to write")
    given = parser.parse_args()
    costs = asyncio.run(measured())
    text = page(costs, given.busy, given.price)
    print(text)
    if given.out:
        before, begin, rest = given.out.read_text(encoding="utf-8").partition(BEGIN)
        given.out.write_text(f"{before}{begin}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    if given.plot:
        plot(costs, given.busy, given.plot)


if __name__ == "__main__":
    main()
