"""What an evaluation leaves behind: tables for the screen, spreadsheets and readers, beside the paper's rows."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from model.analysis.evaluate import Outcome
from model.analysis.metrics import METRICS, Metric, NotRun, Score
from model.analysis.published import TITLES, Dataset, published

NONE = "–"  # the paper gives no number


@dataclass(frozen=True)
class Evaluation:
    """Everything that a report tells."""

    outcomes: Sequence[Outcome]
    setup: Sequence[str]
    """Sentences that say what was compared, and how."""
    border: int
    """Pixels cut from each side for PSNR and SSIM."""
    dataset: Dataset | None = None


@dataclass(frozen=True)
class Row:
    """A method's means over the set, measured here or published."""

    source: str
    method: str
    images: int | None
    seconds: float | None
    scores: dict[str, Score]


def rows(evaluation: Evaluation) -> list[Row]:
    """The methods measured here, then the paper's where the data set is one of its."""
    measured = [
        Row("measured", each.method, len(each.images), each.seconds, {one.name: each.mean(one.name) for one in METRICS})
        for each in evaluation.outcomes
    ]
    theirs = published(evaluation.dataset) if evaluation.dataset else []
    return measured + [Row(f"paper, {one.table}", one.method, None, one.seconds, {**one.scores}) for one in theirs]


def write_files(evaluation: Evaluation, folder: Path, sheet: str) -> None:
    """Write `folder`/per_image.csv, summary.csv and report.md; `sheet` says what contact_sheet.png beside it shows."""
    _write_csv(folder / "per_image.csv", ["method", "image", "scale", "seconds"], per_image(evaluation))
    _write_csv(folder / "summary.csv", ["source", "method", "images", "seconds"], summary(evaluation))
    (folder / "report.md").write_text(markdown(evaluation, sheet), encoding="utf-8")


def per_image(evaluation: Evaluation) -> list[list[str]]:
    """Cells of per_image.csv. FID is of whole sets, so that it has a number only in the summary."""
    return [
        [outcome.method, one.pair.name, f"{one.pair.scale:g}", _plain(one.seconds)]
        + [_plain(one.scores.get(metric.name)) for metric in METRICS]
        for outcome in evaluation.outcomes
        for one in outcome.images
    ]


def summary(evaluation: Evaluation) -> list[list[str]]:
    """Cells of summary.csv; empty where the paper gives no number."""
    return [
        [row.source, row.method, "" if row.images is None else str(row.images), _plain(row.seconds)]
        + [_plain(row.scores.get(metric.name)) for metric in METRICS]
        for row in rows(evaluation)
    ]


def table(evaluation: Evaluation) -> Table:
    """The means for the screen, without the columns that have no number at all."""
    lines = rows(evaluation)
    shown = [one for one in METRICS if any(isinstance(row.scores.get(one.name), float) for row in lines)]
    made = Table(box=SIMPLE_HEAD)
    made.add_column("method", no_wrap=True)
    for heading in [one.heading for one in shown] + ["s/image"]:
        made.add_column(heading, justify="right", no_wrap=True)
    for row in lines:
        style = None if row.source == "measured" else "dim"
        made.add_row(escape(row.method), *_cells(row, shown), style=style)
    return made


def not_run(evaluation: Evaluation) -> list[str]:
    """A line for each reason why numbers are missing, with the metrics and images that it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for outcome in evaluation.outcomes:
        for metric in METRICS:
            scores = {one.pair.name: one.scores.get(metric.name) for one in outcome.images}
            reasons = {name: score.reason for name, score in scores.items() if isinstance(score, NotRun)}
            of_set = outcome.of_set.get(metric.name)
            if isinstance(of_set, NotRun):
                reasons = dict.fromkeys(scores, of_set.reason)
            for reason in sorted(set(reasons.values())):
                names = [name for name in reasons if reasons[name] == reason]
                where = "" if len(names) == len(scores) else f" for {', '.join(names)} ({outcome.method})"
                metrics = found.setdefault((where, reason), [])
                if metric.title not in metrics:
                    metrics.append(metric.title)
    return [f"{', '.join(metrics)}{where}: not run, {reason}" for (where, reason), metrics in found.items()]


def markdown(evaluation: Evaluation, sheet: str) -> str:
    """report.md."""
    lines = ["# Evaluation", "", *(f"- {sentence}" for sentence in evaluation.setup), ""]
    lines += _markdown_table(evaluation)
    missing = not_run(evaluation)
    if missing:
        lines += ["", "## Not run", "", *(f"- {line}" for line in missing)]
    lines += ["", "## How it was measured", "", *(f"- {sentence}" for sentence in _how(evaluation))]
    lines += ["", "## Best and worst", "", f"{sheet}", "", "![best and worst](contact_sheet.png)", ""]
    return "\n".join(lines)


def _markdown_table(evaluation: Evaluation) -> list[str]:
    heads = ["method", *(one.heading for one in METRICS), "s/image", "from"]
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 2) + "|---|"]
    for row in rows(evaluation):
        cells = [row.method.replace("|", "\\|"), *_cells(row, METRICS), row.source]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _how(evaluation: Evaluation) -> list[str]:
    sentences = [
        f"PSNR and SSIM on the luma of BT.601 (16 … 235, peak 255), {evaluation.border} pixels cut from each side; "
        "SSIM with a Gaussian window of 11×11, σ 1.5. Means of the images' values.",
        "EffLite0: 1 − cosine of EfficientNet-Lite0 features, mean over positions and four depths. It is not LPIPS.",
        "NIQE (2013) with the authors' pristine model, on rounded BT.601 luma, 96×96 blocks, no border cut.",
        "LPIPS (AlexNet), DISTS, FID, MUSIQ, MANIQA (PIPAL) and CLIPIQA where pyiqa and its weights are present.",
        "All on 8-bit images. s/image: from the small picture in memory to the large one, one image at a time.",
    ]
    if evaluation.dataset:
        sentences.append(
            f"The paper's rows are its own figures for {TITLES[evaluation.dataset]}, times on one L40S at 512 px. "
            "It does not state the border, nor which weights its metrics have: a small difference may lie there. "
            f"{NONE} stands where it gives no number."
        )
    return sentences


def _cells(row: Row, metrics: Sequence[Metric]) -> list[str]:
    def cell(metric: Metric) -> str:
        score = row.scores.get(metric.name)
        if score is None:
            return NONE
        return str(score) if isinstance(score, NotRun) else f"{score:.{metric.decimals}f}"

    return [cell(metric) for metric in metrics] + [NONE if row.seconds is None else f"{row.seconds:.4f}"]


def _plain(score: Score | None) -> str:
    return "" if score is None else f"{score:.6g}" if isinstance(score, float) else str(score)


def _write_csv(path: Path, heads: list[str], lines: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heads + [metric.name for metric in METRICS])
        writer.writerows(lines)
