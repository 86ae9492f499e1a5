"""The timed tables: every size and batch, every way against plain diffusers. Ratios come first."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

from bench.bare import Bare
from bench.count import counted
from bench.speed import Pair, best_threads, compare, forget, machine, matmul_peak
from bench.table import Cell, Table
from bench.ways import COMPILED, EAGER, counterpart, through
from model.backend.choose import NoBackend
from model.errors import ModelFilesError
from model.networks import STAGES

RATIOS = ("way", "×", "× compiled", "encode ×", "predict ×", "decode ×", "difference", "PSNR dB")
FIGURES = ("way", "s/image", "± %", "encode s", "predict s", "decode s", "GB", "TFLOP", "TFLOP/s", "% peak")


def tables(
    bare: Bare,
    names: Sequence[str],
    sizes: Sequence[int],
    batches: Sequence[int],
    *,
    runs: int,
    threads: int,
    title: str,
    command: str,
    note: Callable[[str], None],
    told: Callable[[str], None],
) -> Iterator[Table]:
    """Two for each size (pixels) and batch; `threads` 0 is what plain diffusers is fastest with.

    `note` hears what is under way, `told` what each way has shown.
    """
    device, dtype = next(bare.denoiser.parameters()).device, bare.autoencoder.dtype
    if device.type == "cpu":
        note("threads")
        torch.set_num_threads(threads or best_threads(bare, noise(sizes[0], 1, device)))
    peak = matmul_peak(device, dtype)
    for size, batch in product(sizes, batches):
        x = noise(size, batch, device)
        pairs, missing = list[Pair](), list[str]()
        head = f"{title}, {size} px, batch {batch}"
        for name in names:
            found = attempt(partial(compare, name, bare, x, runs, note))
            torch.compiler.reset()
            forget(device)
            if isinstance(found, str):
                missing.append(f"{name}: {found}")
            else:
                pairs.append(found)
                told(f"{head}: {name} {found.ratio:.2f} ×")
        ratios = Table(f"{head}: how many times as fast", command, RATIOS, notes=missing)
        ratios.rows.extend(ratio_row(pair, pairs) for pair in pairs)
        yield ratios
        figures = Table(f"{head}: figures", command, FIGURES)
        pairs[:0] = [Pair(EAGER, pairs[0].plain, pairs[0].plain)] if pairs else []
        figures.rows.extend(figure_row(pair, bare, x, peak) for pair in pairs)
        figures.notes.append(f"{machine(device)}; matrix products: {peak / 1e12:.3g} TFLOP/s")
        yield figures


def attempt(timed: Callable[[], Pair]) -> Pair | str:
    """The pair, or why there is none."""
    try:
        return timed()
    except torch.OutOfMemoryError:
        return "out of memory"
    except (ModelFilesError, NoBackend) as error:
        return f"not here: {error}"


def noise(size: int, batch: int, device: torch.device) -> Tensor:
    """[B,3,size,size] in [-1,1], the same on each device."""
    return (torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(device)


def ratio_row(pair: Pair, pairs: Sequence[Pair]) -> list[Cell]:
    """What a way gains; `pairs` may hold the compile mode's."""
    compiled = next((each.ratio for each in pairs if each.name == COMPILED), None)
    return [
        pair.name,
        f"{pair.ratio:.2f}",
        f"{pair.ratio / compiled:.2f}" if compiled else "–",
        *(f"{pair.stage_ratio(stage):.2f}" for stage in STAGES),
        f"{pair.error:.1e}",
        f"{pair.psnr_db:.1f}",
    ]


def figure_row(pair: Pair, bare: Bare, x: Tensor, peak: float) -> list[Cell]:
    """What a way takes and does."""
    timing = pair.timing
    flops = counted(partial(through, counterpart(pair.name, bare), x.to("meta"))).flops
    return [
        pair.name,
        timing.seconds_per_run / len(x),
        f"{100 * timing.spread:.1f}",
        *(timing.median(stage) for stage in STAGES),
        timing.peak / 1e9,
        flops / len(x) / 1e12,
        flops / timing.seconds_per_run / 1e12,
        f"{100 * flops / timing.seconds_per_run / peak:.0f}",
    ]
