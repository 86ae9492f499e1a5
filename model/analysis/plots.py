"""Pictures of what the analyses find. Needs matplotlib (the extra `analysis`); draws to files only."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from model.analysis.latent_gap import Trajectory
from model.analysis.mid_timestep import LatentStatistics

DPI = 90
GAP = 2  # pixels between the pictures of a strip


def plot_criteria(statistics: LatentStatistics, path: Path) -> None:
    """Eq. 9 and the SNR criterion over t, each with the timestep it chooses."""
    chosen = statistics.timesteps()
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(statistics.eq9(), color="tab:blue")
    left.axvline(chosen["eq9"], color="tab:blue", linestyle=":", label=f"least at t = {chosen['eq9']}")
    left.set(title="eq. 9 as printed", xlabel="t", ylabel="mean (z_L − z_t)²")
    right.plot(statistics.snr_gap(), color="tab:orange")
    right.axvline(chosen["snr-gap"], color="tab:orange", linestyle=":", label=f"least at t = {chosen['snr-gap']}")
    right.axvline(chosen["snr"], color="tab:green", linestyle="--", label=f"closed form of the mean d: {chosen['snr']}")
    right.set(title="SNR criterion", xlabel="t", ylabel="mean |SNR_L − SNR_t|", yscale="log")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=DPI)


def plot_gaps(trajectories: Mapping[str, Trajectory], path: Path) -> None:
    """Figure 4: the gap at each step of the inference, one line for each way it went."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, one in trajectories.items():
        steps_left = range(len(one.gaps), 0, -1)
        axes.plot(steps_left, one.gaps, marker=".", label=name)
    axes.invert_xaxis()  # from noise to image, as it happens
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="steps left", ylabel="mean (z̄_t − z_t)²", title="gap to the pre-trained noisy latents")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=DPI)


def save_strip(rows: list[Tensor], path: Path, side: int = 96) -> None:
    """Figure 2: a row of pictures, `side` pixels high, for each of `rows`, images [N,3,H,W] in [-1,1] from noise on."""
    bands = [np.concatenate([_thumbnail(image, side) for image in row], axis=1) for row in rows]
    Image.fromarray(np.concatenate(bands, axis=0)).save(path)


def _thumbnail(image: Tensor, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """[3,H,W] → [side+GAP, …, 3] uint8 with a white edge at the right and below."""
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    width = round(side * pixels.shape[1] / pixels.shape[0])
    small = np.asarray(Image.fromarray(pixels).resize((width, side), Image.Resampling.BOX))
    return np.pad(small, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
