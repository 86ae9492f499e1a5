"""The paper's claim in miniature: does the mid-timestep of the SNR criterion beat 999, and every other one?

    python bench/mid_timestep_sweep.py RECIPE.yaml [--t 50 125 195 273 400 600 999] [--seeds 3] [--steps 300]

Trains the recipe from fresh adapters once for each timestep and seed, all with the same budget, and judges each on
tests/data/photos. Finished runs are kept in --runs and not repeated, so the sweep may be stopped and gone on with.
Writes docs/mid_timestep_sweep.csv and .png, and prints the table (mean ± standard deviation over the seeds).
"""

import argparse
import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from model.analysis.evaluate import by_model, evaluate, find_pairs
from model.analysis.metrics import find_judges
from model.pipeline import OMGSRPipeline
from model.train.train import train

ROOT = Path(__file__).parent.parent
PHOTOS = ROOT / "tests" / "data" / "photos"
METRICS = ("psnr", "ssim", "efflite0", "niqe")
SNR = "SNR"
"""The choice of the SNR criterion: a run's t_m is that of its first pairs, so it differs a little between seeds."""

Row = dict[str, Any]
"""`choice`, `t`, `seed` and the mean of each metric."""


def trained(recipe: Path, run: Path, t: int | None, seed: int, steps: int) -> Path:
    """The variant of one run; `t` None: by the SNR criterion."""
    if not (run / "variant.json").is_file():
        fields = {
            "extends": str(recipe.resolve()),
            "run": str(run),
            "mid_timestep": t,
            "adapters": {"start": None},
            "optimization": {"steps": steps, "seed": seed},
            "keeping": {"save": steps, "keep": 1, "log": 50, "panels": steps},
        }
        run.mkdir(parents=True, exist_ok=True)
        path = run / "sweep.yaml"
        path.write_text(yaml.safe_dump(fields))
        train(path)
    return run


def scores(folder: Path) -> dict[str, float]:
    kept = folder / "scores.json"
    if not kept.is_file():
        method = by_model(OMGSRPipeline.from_variant(folder), folder.name, folder / "images")
        outcome = evaluate(method, find_pairs(PHOTOS, PHOTOS), find_judges(4))
        found = {name: outcome.mean(name) for name in METRICS}
        kept.write_text(json.dumps({name: score for name, score in found.items() if isinstance(score, float)}))
    numbers: dict[str, float] = json.loads(kept.read_text())
    return numbers


def write(rows: list[Row], out: Path) -> None:
    with out.with_suffix(".csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["choice", "t", "seed", *METRICS])
        table.writeheader()
        table.writerows(
            {name: f"{value:g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows
        )
    by_choice = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["t"]):
        by_choice[row["choice"]].append(row)
    print("| t_m |", " | ".join(METRICS), "|\n|---|" + "---:|" * len(METRICS))
    for choice, runs in by_choice.items():
        cells = [told([row[name] for row in runs]) for name in METRICS]
        print(f"| {choice} |", " | ".join(cells), "|")
    plot(by_choice, out)


def told(scores: list[float]) -> str:
    spread = f" ± {statistics.stdev(scores):.2g}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):#.4g}{spread}"


def plot(by_choice: dict[str, list[Row]], out: Path) -> None:
    """One panel a metric: every run, and the mean of each timestep's."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        given = {choice: runs for choice, runs in by_choice.items() if choice != SNR}
        axes.plot(
            [int(choice) for choice in given],
            [statistics.mean(row[name] for row in runs) for runs in given.values()],
        )
        for choice, runs in by_choice.items():
            color = "tab:green" if choice == SNR else "tab:blue"
            axes.scatter([row["t"] for row in runs], [row[name] for row in runs], s=9, color=color)
        axes.set_title(name)
    figure.supxlabel("t_m; green: chosen by the SNR criterion")
    figure.savefig(out.with_suffix(".png"), dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--t", type=int, nargs="+", default=[50, 125, 195, 273, 400, 600, 999])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--runs", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "mid_timestep_sweep")
    options = parser.parse_args()
    rows: list[Row] = []
    for seed in range(options.seeds):  # seeds outside, so that a sweep cut short still compares all timesteps
        for t in (None, *options.t):
            name = f"{'snr' if t is None else t}-{seed}"
            folder = trained(options.recipe, options.runs / name, t, seed, options.steps)
            at = int(json.loads((folder / "variant.json").read_text())["mid_timestep"])
            rows.append({"choice": SNR if t is None else str(t), "t": at, "seed": seed, **scores(folder)})
    write(rows, options.out)


if __name__ == "__main__":
    main()
