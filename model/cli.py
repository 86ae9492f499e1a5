"""`omgsr mid-timestep` and `omgsr analyze`. What is heavy is imported inside, so that `--help` is quick."""

import csv
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.console import errors_told, stderr

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from model.analysis.latent_gap import Trajectory

_out = Console(highlight=False)

Family = Literal["sd", "flux"]
Criterion = Literal["snr", "snr-gap", "eq9"]
Base = Annotated[Path, typer.Option(help="The base's diffusers folder.", exists=True, file_okay=False)]
Out = Annotated[Path, typer.Option(help="Folder for the results; it is made.", file_okay=False)]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N [cuda where there is one]")]


def mid_timestep(  # noqa: PLR0917 — each is an option of the command line
    base: Base,
    family: Annotated[Family, typer.Option(help="What the base is.")],
    out: Out,
    lq: Annotated[str | None, typer.Option(help="Damaged photos: a folder, or a pattern in quotes. With --hq.")] = None,
    hq: Annotated[str | None, typer.Option(help="Their originals, of the same names.")] = None,
    photos: Annotated[str | None, typer.Option(help="Instead of both: originals, damaged here as in training.")] = None,
    criterion: Annotated[Criterion, typer.Option(help="docs/mid-timestep.md tells them apart.")] = "snr",
    crop: Annotated[int, typer.Option(min=64, help="Pixels: at most this much of a photo's middle.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the damage; a photo's number is added.")] = 0,
    device: Device = "",
) -> None:
    """Find the timestep whose noisy latents are most like the latents of damaged photos."""
    with errors_told():
        import torch
        import yaml

        from model.analysis.mid_timestep import Finding, LatentStatistics, schedule_of
        from model.analysis.plots import plot_criteria
        from model.vae import VAE

        count, pairs = _pairs(lq, hq, photos, crop, _multiple(family), seed)
        schedule = schedule_of(family, base)
        statistics = LatentStatistics(schedule)
        on, _ = _device(device)
        vae = VAE.load(base, None, torch.float32).to(on)
        with _progress() as progress, torch.no_grad():
            task = progress.add_task("encoding", total=count)
            for x_l, x_h in pairs:
                statistics.update(vae.encode(x_l.to(on)), vae.encode(x_h.to(on)))
                progress.update(task, advance=1, description=f"d = {statistics.distance:.4f}")
        finding = Finding.of(statistics, criterion, base=str(base), family=family)
        out.mkdir(parents=True, exist_ok=True)
        plot_criteria(statistics, out / "mid_timestep.png")
        (out / "mid_timestep.yaml").write_text(yaml.safe_dump(asdict(finding), sort_keys=False))
    level = ", ".join(f"{name} {value}" for name, value in finding.noise_level.items())
    _out.print(f"mid-timestep {finding.mid_timestep} ({level}) by {criterion}, from {count} pairs", soft_wrap=True)
    _out.print(f"written to {out}", soft_wrap=True, markup=False)


def analyze(  # noqa: PLR0917 — each is an option of the command line
    base: Base,
    family: Annotated[Family, typer.Option(help="What the base is.")],
    prompt: Annotated[Path, typer.Option(help="prompt.safetensors: a variant's, or one of `models embed-prompt`.")],
    out: Out,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Of the inference.")] = 20,
    size: Annotated[int, typer.Option(min=64, help="Pixels: the side of the image that is made.")] = 512,
    level: Annotated[list[float], typer.Option(help="Noise thrown in on the way; several.")] = [0.1, 0.3, 0.5],  # noqa: B006
    steps_left: Annotated[int, typer.Option(min=1, help="Where it is thrown in.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the noise that inference begins with.")] = 0,
    device: Device = "",
) -> None:
    """Measure the latent gap of an inference from pure noise (figure 4), and show its steps as images (figure 2)."""
    if size % _multiple(family):
        raise typer.BadParameter(f"--size must be a multiple of {_multiple(family)} for {family}")
    if steps_left > steps:
        raise typer.BadParameter(f"--steps-left must be at most --steps: there are {steps} steps in all")
    with errors_told():
        import torch

        from model.analysis.latent_gap import Disturbance, inference_timesteps, trajectory
        from model.analysis.mid_timestep import schedule_of
        from model.analysis.plots import plot_gaps, save_strip
        from model.family import FAMILIES
        from model.prompt import load_prompt
        from model.vae import VAE

        on, dtype = _device(device)
        vae = VAE.load(base, None, dtype).to(on)
        denoiser = FAMILIES[family].load(base, None, load_prompt(prompt), dtype, on)
        generator = torch.Generator().manual_seed(seed)
        epsilon = torch.randn(1, denoiser.latent_channels, size // 8, size // 8, generator=generator).to(on)
        timesteps, schedule = inference_timesteps(steps, denoiser.steps), schedule_of(family, base)
        found = {}
        with _progress() as progress:
            for one in progress.track([0.0, *level], description="inference"):
                disturbance = Disturbance(one, steps_left, seed + 1)
                name = f"R.N.@{one:g}" if one else "no noise"
                found[name] = trajectory(denoiser, schedule, epsilon, timesteps, disturbance)
        out.mkdir(parents=True, exist_ok=True)
        plot_gaps(found, out / "latent_gap.png")
        _write_table(found, out / "latent_gap.csv")
        with torch.no_grad():
            save_strip([torch.cat([vae.decode(z) for z in one.latents]) for one in found.values()], out / "steps.png")
    _out.print(f"{len(found)} inferences of {steps} steps; written to {out}", soft_wrap=True, markup=False)


def _write_table(found: "dict[str, Trajectory]", path: Path) -> None:
    """A row for each step, a column of gaps for each inference."""
    ways = list(found.values())
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["steps_left", "t", *found])
        for i, t in enumerate(ways[0].timesteps):
            table.writerow([len(ways[0].timesteps) - i, t, *(f"{one.gaps[i]:.6g}" for one in ways)])


def _pairs(  # noqa: PLR0917 — the command's options
    lq: str | None, hq: str | None, photos: str | None, crop: int, multiple: int, seed: int
) -> "tuple[int, Iterator[tuple[Tensor, Tensor]]]":
    """How many pairs there are, and the pairs, read one by one."""
    from model.analysis.pairs import damage_photos, find_photos, pair_up, read_pairs

    if photos and not (lq or hq):
        from model.train.degradation import Degradation, degrade, upsample

        config = Degradation()

        def damage(x: "Tensor", number: int) -> "Tensor":
            return upsample(degrade(x, [seed + number], config), config.scale)

        found = find_photos(photos)
        return len(found), damage_photos(found, damage, crop, multiple)
    if lq and hq and not photos:
        paired = pair_up(find_photos(lq), find_photos(hq))
        return len(paired), read_pairs(paired, crop, multiple)
    raise typer.BadParameter("give --lq and --hq, or --photos alone")


def _multiple(family: Family) -> int:
    """Pixels: image sides must be multiples of this."""
    from model.family import FAMILIES

    return FAMILIES[family].multiple


def _device(name: str) -> "tuple[torch.device, torch.dtype]":
    """Where to compute, and in which precision: bfloat16 on a GPU, for FLUX has 24 GB in it."""
    import torch

    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    return device, torch.float32 if device.type == "cpu" else torch.bfloat16


def _progress() -> Progress:
    left = TextColumn("left"), TimeRemainingColumn()
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *left, console=stderr)
