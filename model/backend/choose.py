"""Which backend runs which network: the fastest, by measurement, of those whose output is the plain one's."""

import itertools
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from model.networks import STAGES, Network, Networks, Stage
from model.pipeline import OMGSRPipeline
from model.plan import LATENT

AUTO, EAGER, OPENVINO, INDUCTOR = "auto", "eager", "openvino", "inductor"
CANDIDATES = {"cpu": (OPENVINO,), "cuda": (INDUCTOR,)}
"""What `auto` tries beside eager, by kind of device. On a CPU Inductor takes minutes to compile: by name alone."""

TOLERANCE = 1e-4
"""How far from the plain output another may be, in parts of its largest value (or of 1)."""
SHORT_TOLERANCE = 2e-2
"""The same in bf16 and fp16, whose own rounding is of this order."""
GAIN = 1.05
"""How many times as fast as eager another must be to be chosen."""
LONG_S = 0.3
"""Networks are run by turns, for the best time of each, until they have taken so long."""


class NoBackend(ValueError):
    """The backend asked for by name is not to be had; the message says why and what to do."""


@dataclass(frozen=True)
class Trial:
    """How one backend did with one network on one tile."""

    seconds: float
    error: float
    """Largest difference from the plain output, in parts of its largest value (or of 1)."""


@dataclass(frozen=True)
class Report:
    """What runs each network now, and why."""

    chosen: Mapping[Stage, str]
    trials: Mapping[Stage, Mapping[str, Trial]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    """Backends, or networks of them, that are not to be had, with the reason."""

    @property
    def backends(self) -> set[str]:
        """Those that run something."""
        return set(self.chosen.values())


@torch.no_grad()
def use_backend(pipe: OMGSRPipeline, wanted: str = AUTO, cache: Path | None = None) -> Report:
    """Let each network of `pipe` run on the backend `wanted`; `auto`: on the one that is fastest here and now.

    None is used whose output on one tile differs from the plain one by more than TOLERANCE. `cache`: folder for what
    backends compile, so that the next start is quick. Raises NoBackend if one other than `auto` is not to be had.
    """
    if wanted not in (AUTO, EAGER, OPENVINO, INDUCTOR):
        raise NoBackend(f"the backend must be auto, eager, openvino or inductor, got {wanted!r}")
    if wanted == EAGER:
        return Report(dict.fromkeys(STAGES, EAGER))
    tile = min(pipe.geometry.tile, pipe.geometry.process_size // LATENT)
    built, refused = dict[str, Networks](), dict[str, str]()
    for name in CANDIDATES.get(pipe.device.type, ()) if wanted == AUTO else [wanted]:
        try:
            built[name] = _build(name, pipe, tile, cache)
        except Exception as error:  # noqa: BLE001 — whatever ails a backend, there is the plain way
            refused[name] = _reason(error)
    trials = _trials(pipe, tile, built, refused)
    if wanted != AUTO and refused:
        raise NoBackend(f"no backend {wanted!r} here: {'; '.join(refused.values())} (or choose auto)")
    chosen = {stage: _fastest(found) if wanted == AUTO else wanted for stage, found in trials.items()}
    built[EAGER] = pipe.networks
    resting = [built[name].rest for name in set(chosen.values())]

    def rest() -> None:
        for each in resting:
            each()

    fast = Networks(**{stage: built[name][stage] for stage, name in chosen.items()}, rest=rest)
    pipe.networks = _whole(pipe, pipe.networks, fast)
    return Report(chosen, trials, refused)


def _whole(pipe: OMGSRPipeline, plain: Networks, fast: Networks) -> Networks:
    """`fast`, but for images that go through the VAE in strips."""

    def encode(x: Tensor) -> Tensor:
        return (plain if pipe.vae.goes_in_strips(x.shape[-1], x.shape[-2]) else fast).encode(x)

    def decode(z: Tensor) -> Tensor:
        return (plain if pipe.vae.goes_in_strips(z.shape[-1] * LATENT, z.shape[-2] * LATENT) else fast).decode(z)

    return Networks(encode, fast.predict, decode, fast.rest)


def _build(name: str, pipe: OMGSRPipeline, tile: int, cache: Path | None) -> Networks:
    if name == OPENVINO:
        from model.backend.openvino import convert

        return convert(pipe, tile, cache)
    from model.backend.compiled import compile_networks

    if pipe.device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise NoBackend("inductor needs a C++ compiler: install g++, or name one in CXX")
    return compile_networks(pipe, tile, cache)


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install 'omgsr-serve[openvino]'"
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else 'no reason given'}"


def _trials(
    pipe: OMGSRPipeline, tile: int, built: Mapping[str, Networks], refused: dict[str, str]
) -> dict[Stage, dict[str, Trial]]:
    """All backends on one tile of noise, network by network; what fails or differs is refused."""
    side = pipe.geometry.process_size
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoded, latents = _tried("encode", pipe, pixels.to(pipe.device), built, refused)
    predicted, _ = _tried("predict", pipe, latents[..., :tile, :tile].contiguous(), built, refused)
    decoded, _ = _tried("decode", pipe, latents, built, refused)
    return {"encode": encoded, "predict": predicted, "decode": decoded}


def _tried(
    stage: Stage, pipe: OMGSRPipeline, given: Tensor, built: Mapping[str, Networks], refused: dict[str, str]
) -> tuple[dict[str, Trial], Tensor]:
    """How each backend did with one network, and the plain output."""
    tolerance = TOLERANCE if pipe.vae.autoencoder.dtype == torch.float32 else SHORT_TOLERANCE
    plain, seconds = _run(pipe.networks[stage], given)
    sound, errors = dict[str, Network](), dict[str, float]()
    for name, networks in built.items():
        try:
            error = _difference(_run(networks[stage], given)[0], plain)
        except Exception as fault:  # noqa: BLE001 — as above
            refused[f"{name} {stage}"] = _reason(fault)
            continue
        if error <= tolerance:
            sound[name], errors[name] = networks[stage], error
        else:
            refused[f"{name} {stage}"] = f"its output differs by {error:.1g}, more than {tolerance:g}"
    best = _best_seconds(sound | {EAGER: pipe.networks[stage]}, given, {EAGER: seconds})
    return {name: Trial(best[name], errors.get(name, 0.0)) for name in best}, plain


def _best_seconds(networks: Mapping[str, Network], given: Tensor, known: Mapping[str, float]) -> dict[str, float]:
    """The best time of each in turns that go on for LONG_S, and in one at least where none is known."""
    best, until = dict(known), time.monotonic() + LONG_S
    for name in itertools.cycle(networks):
        if name in best and time.monotonic() > until:
            break
        best[name] = min(best.get(name, math.inf), _run(networks[name], given)[1])
    return best


def _run(network: Network, given: Tensor) -> tuple[Tensor, float]:
    began = time.monotonic()
    made = network(given)
    if given.is_cuda:
        torch.cuda.synchronize(given.device)
    return made, time.monotonic() - began


def _difference(ours: Tensor, plain: Tensor) -> float:
    """The largest, in parts of the plain one's largest value (or of 1); NaN where either holds one."""
    return float((ours - plain).abs().max() / plain.abs().max().clamp(min=1))


def _fastest(trials: Mapping[str, Trial]) -> str:
    name = min(trials, key=lambda each: trials[each].seconds)
    return name if trials[EAGER].seconds >= GAIN * trials[name].seconds else EAGER
