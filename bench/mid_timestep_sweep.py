"""The paper's claim in miniature: does the mid-timestep of the SNR criterion beat 999, and every other one?

    python bench/mid_timestep_sweep.py RECIPE.yaml [--t 50 125 195 273 400 600 999] [--seeds 3] [--steps 300]

Trains the recipe from fresh adapters once for each timestep and seed, all with the same budget, and judges each on
tests/data/photos. Finished runs are kept in --runs and not repeated, so the sweep may be stopped and gone on with.
Writes docs/mid_timestep_sweep.csv and .png, and prints the table (mean ± standard deviation over seeds).
"""

import argparse
import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from model.analysis.evaluate import by_model, evaluate, find_pairs
from model.analysis.metrics import find_judges
from model.pipeline import OMGSRPipeline
from model.train.train import train

ROOT = Path(__file__).parent.parent
PHOTOS = ROOT / "tests" / "data" / "photos"
METRICS = ("psnr", "ssim", "efflite0", "niqe")


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


def write(rows: list[dict[str, float]], chosen: int, out: Path) -> None:
    with out.with_suffix(".csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["t", "seed", *METRICS])
        table.writeheader()
        table.writerows({name: f"{value:g}" for name, value in row.items()} for row in rows)
    by_t = defaultdict(list)
    for row in rows:
        by_t[int(row["t"])].append(row)
    print("| t_m |", " | ".join(METRICS), "|\n|---|" + "---|" * len(METRICS))
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        axes.scatter([row["t"] for row in rows], [row[name] for row in rows], s=9)
        axes.plot(sorted(by_t), [statistics.mean(row[name] for row in by_t[t]) for t in sorted(by_t)])
        axes.axvline(chosen, linestyle="--", color="tab:green")
        axes.set(title=name, xlabel="t_m")
    figure.savefig(out.with_suffix(".png"), dpi=80)
    for t in sorted(by_t):
        cells = []
        for name in METRICS:
            values = [row[name] for row in by_t[t]]
            cells.append(f"{statistics.mean(values):.4g} ± {statistics.pstdev(values):.2g}")
        print(f"| {t}{' (SNR)' if t == chosen else ''} |", " | ".join(cells), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--t", type=int, nargs="+", default=[50, 125, 195, 273, 400, 600, 999])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--runs", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "mid_timestep_sweep")
    options = parser.parse_args()
    rows, chosen = [], 0
    for seed in range(options.seeds):  # seeds outside, so that a sweep cut short still compares all timesteps
        for t in (None, *options.t):
            name = f"{'snr' if t is None else t}-{seed}"
            folder = trained(options.recipe, options.runs / name, t, seed, options.steps)
            at = int(json.loads((folder / "variant.json").read_text())["mid_timestep"])
            chosen = at if t is None else chosen
            rows.append({"t": at, "seed": seed, **scores(folder)})
    write(rows, chosen, options.out)


if __name__ == "__main__":
    main()
