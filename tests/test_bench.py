"""`omgsr bench`, as a person types it: one tiny run on the mini."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import Result
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from bench.bare import bare_of
from bench.count import counted
from bench.speed import fingerprint
from bench.ways import build, counterpart, run, through
from service.cli import app
from tests.golden import golden_pipeline


def bench(*words: str) -> Result:
    """In this process: a new one would spend its time on loading torch."""
    ran = CliRunner().invoke(app, ["bench", *words])
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exc_info
    return ran


def rows(page: str) -> dict[str, dict[str, str]]:
    """By way, the cells by column, of all tables."""
    found: dict[str, dict[str, str]] = {}
    head: list[str] = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| way"):
            head = cells
        elif line.startswith("| "):
            found.setdefault(cells[0], {}).update(zip(head, cells, strict=True))
    return found


def test_ways_are_timed_against_diffusers_on_the_same_weights(tmp_path: Path) -> None:
    page, threads = tmp_path / "table.md", torch.get_num_threads()
    words = ("--size", "64", "--runs", "2", "--threads", "1", "--device", "cpu", "--out", str(page))
    ran = bench(*words, "--way", "folded", "--way", "channels-last", "--way", "fp8")
    torch.set_num_threads(threads)
    assert ran.exit_code == 0, ran.output
    assert "folded" in ran.stdout
    assert "fp8: not here: fp8 needs an NVIDIA GPU" in page.read_text()
    found = rows(page.read_text())
    assert set(found) == {"diffusers", "folded", "channels-last"}
    for name in ("folded", "channels-last"):
        assert float(found[name]["difference"]) < 1e-3
        assert float(found[name]["×"]) > 0
    assert float(found["folded"]["TFLOP"]) < float(found["diffusers"]["TFLOP"])
    assert found["channels-last"]["TFLOP"] == found["diffusers"]["TFLOP"]
    for figures in found.values():
        stages = [float(figures[f"{stage} s"]) for stage in ("encode", "predict", "decode")]
        assert 0.5 < sum(stages) / float(figures["s/image"]) < 2  # medians, each by itself
        assert float(figures["TFLOP/s"]) > 0


@pytest.mark.parametrize(
    ("words", "said"), [(("--way", "faster"), "there is no way 'faster'"), (("--size", "100"), "multiples of 8")]
)
def test_what_cannot_be_timed_is_refused_in_words(words: tuple[str, ...], said: str) -> None:
    ran = bench(*words)
    assert ran.exit_code == 2
    assert said in re.sub(r"[\s│]+", " ", ran.stderr)


@pytest.mark.parametrize("case", ["s/untiled_t195", "f/untiled_t295"])
def test_the_plain_way_is_what_ours_gives_for_batches_and_tiles(case: str) -> None:
    bare = bare_of(golden_pipeline(case))
    before = fingerprint(bare)
    bare = bare._replace(geometry=replace(bare.geometry, process_size=64, tile=8, overlap=4))
    x = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
    plain, ours = build("diffusers", bare), build("folded", bare)
    z_l = run(plain, "encode", x)
    assert torch.allclose(run(ours, "encode", x), z_l, atol=1e-4)
    z_p = run(plain, "predict", z_l)
    assert torch.allclose(run(ours, "predict", z_l), z_p, atol=1e-4)
    assert torch.allclose(run(ours, "decode", z_p), run(plain, "decode", z_p), atol=1e-4)
    assert torch.allclose(run(plain, "predict", z_l[1:]), z_p[1:], atol=1e-4)
    assert fingerprint(bare) == before


@pytest.mark.parametrize("way", ["diffusers", "folded"])
@pytest.mark.parametrize("case", ["s/untiled_t195", "f/untiled_t295"])
def test_a_way_without_data_has_the_flops_of_the_real_one(case: str, way: str) -> None:
    bare = bare_of(golden_pipeline(case))
    x, real_way = torch.zeros(2, 3, 128, 128), build(way, bare)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as real:  # of it torch counts the products
        through(real_way, x)
    assert counted(partial(through, counterpart(way, bare), x.to("meta"))).flops == real.get_total_flops()
