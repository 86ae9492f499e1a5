"""However the networks are run, the output is the same; which way is taken is measured, and told."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from model import OMGSRPipeline
from model.backend import choose
from model.backend.choose import NoBackend, use_backend
from model.backend.compiled import compile_networks
from model.networks import STAGES
from model.transfer import download, upload
from model.upscale import Decode, Encode, Op, Predict
from service.settings import Settings
from service.worker.heap import give_back
from service.worker.variants import load_models
from tests.golden import golden_pipeline

MINI = Path(__file__).parent.parent / "model" / "weights" / "omgsr-s-mini"
GOLDEN = ("s/untiled_t195", "f/untiled_t295")
TILE = 16


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[*GOLDEN, "mini"])
def pair(request: pytest.FixtureRequest) -> tuple[OMGSRPipeline, OMGSRPipeline]:
    """The same pipeline plain and through OpenVINO."""
    plain, fast = loaded(request.param), loaded(request.param)
    assert use_backend(fast, "openvino").backends == {"openvino"}
    return plain, fast


def loaded(name: str) -> OMGSRPipeline:
    pipe = OMGSRPipeline.from_variant(MINI) if name == "mini" else golden_pipeline(name)
    return pipe.fold()


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def assert_same(ours: list[Tensor], plain: list[Tensor]) -> None:
    for one, other in zip(ours, plain, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert (one - other).abs().max() <= 1e-4 * other.abs().max().clamp(min=1)


@pytest.mark.parametrize("size", [(96, 96), (112, 240)])
def test_openvino_gives_the_plain_output_at_any_size(pair: tuple[OMGSRPipeline, OMGSRPipeline], size) -> None:
    plain, fast = pair
    height, width = size
    latent = noise(plain.vae.latent_channels, height // 8, width // 8)
    for op in (Encode(noise(3, height, width)), Predict(latent), Decode(latent)):
        assert_same(fast.execute([op]), plain.execute([op]))


def test_openvino_rests_without_what_a_large_image_took_and_goes_on() -> None:
    fast = loaded("mini")
    use_backend(fast, "openvino")
    op, process = Decode(noise(fast.vae.latent_channels, 64, 128)), psutil.Process()
    before = fast.execute([op])
    taken = process.memory_info().rss
    fast.rest()
    give_back()
    assert taken - process.memory_info().rss > 100e6
    assert torch.equal(fast.execute([op])[0], before[0])


def test_openvino_keeps_nothing_for_each_size_of_image_that_it_has_seen() -> None:
    fast, process = loaded("mini"), psutil.Process()
    use_backend(fast, "openvino")
    taken = list[int]()
    for sizes in (range(8, 20), range(20, 80)):
        for width in sizes:
            fast.execute([Decode(noise(fast.vae.latent_channels, 4, width))])
        fast.rest()
        give_back()
        taken.append(process.memory_info().rss)
    assert taken[1] - taken[0] < 80e6  # a cache of kernels has 2 MB more for each


@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_gives_the_plain_output_in_batches(pair: tuple[OMGSRPipeline, OMGSRPipeline], batch: int) -> None:
    plain, fast = pair
    side = min(plain.geometry.tile, plain.geometry.process_size // 8)
    tiles = [noise(plain.vae.latent_channels, side, side) * (1 - n / 8) for n in range(batch)]
    assert_same(fast.execute([Predict(tile) for tile in tiles]), plain.execute([Predict(tile) for tile in tiles]))
    assert_same(fast.execute([Decode(tile) for tile in tiles]), plain.execute([Decode(tile) for tile in tiles]))


def test_the_whole_way_agrees(pair: tuple[OMGSRPipeline, OMGSRPipeline]) -> None:
    plain, fast = pair
    side = plain.geometry.process_size
    image = noise(2, 3, side, side + 16)
    encoded = plain.encode(image)
    assert_same(list(fast.encode(image)), list(encoded))
    assert_same(list(fast.predict(encoded)), list(plain.predict(encoded)))
    assert_same(list(fast.decode(encoded)), list(plain.decode(encoded)))


def test_images_that_go_through_in_strips_still_do(pair: tuple[OMGSRPipeline, OMGSRPipeline]) -> None:
    plain, fast = pair
    op = Decode(noise(plain.vae.latent_channels, 24, 8))
    whole = fast.execute([op])
    plain.vae.whole_pixels = fast.vae.whole_pixels = 64 * 64
    strips = fast.execute([op])
    assert torch.equal(strips[0], plain.execute([op])[0])
    assert_same(strips, whole)
    plain.vae.whole_pixels = fast.vae.whole_pixels = None


def test_the_second_start_finds_what_the_first_has_compiled(tmp_path: Path) -> None:
    first, second = loaded(GOLDEN[0]), loaded(GOLDEN[0])
    use_backend(first, "openvino", tmp_path)
    compiled = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")}
    assert len(compiled) == len(STAGES)
    use_backend(second, "openvino", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")} == compiled
    op = Decode(noise(first.vae.latent_channels, 8, 12))
    assert_same(second.execute([op]), first.execute([op]))


def test_a_worker_tells_what_it_has_chosen_and_why(tiny_models: Path, tmp_path: Path) -> None:
    settings = Settings(models=[tiny_models / "tiny-s"], device="cpu", threads=1, state_dir=tmp_path)
    with capture_logs() as said:
        load_models(settings)
    chosen = {line["stage"]: line for line in said if line["event"] == "backend chosen"}
    assert set(chosen) == set(STAGES)
    for line in chosen.values():
        seconds = line["seconds"]
        assert {"eager", "openvino"} <= set(seconds)
        assert line["backend"] == "eager" or seconds[line["backend"]] == min(seconds.values())
        assert max(line["errors"].values()) <= 1e-4
    assert list((tmp_path / "cache").rglob("*.bin"))


def test_what_differs_from_the_plain_output_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "TOLERANCE", 1e-12)
    pipe = loaded(GOLDEN[0])
    plain = pipe.networks
    report = use_backend(pipe)
    assert report.backends == {"eager"}
    assert all("differs by" in report.refused[f"openvino {stage}"] for stage in STAGES)
    op = Decode(noise(pipe.vae.latent_channels, 8, 12))
    assert torch.equal(pipe.execute([op])[0], plain.decode(op.tensor[None])[0].clamp(-1, 1))


ABSENT = """
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "openvino":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, ".")
from model.backend.choose import NoBackend, use_backend
from model.upscale import Encode
from tests.golden import golden_pipeline
import os, torch
os.environ["CXX"] = "/nowhere/g++"
pipe = golden_pipeline("s/untiled_t195")
report = use_backend(pipe)
print(report.backends, report.refused, pipe.execute([Encode(torch.zeros(3, 64, 64))])[0].shape)
for name in ("openvino", "inductor"):
    try:
        use_backend(pipe, name)
    except NoBackend as error:
        print("refused:", error)
"""


def test_without_openvino_and_a_compiler_it_runs_as_before() -> None:
    done = subprocess.run([sys.executable, "-c", ABSENT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{'eager'} ")
    assert "openvino is not installed: pip install 'omgsr-serve[openvino]'" in done.stdout
    assert "refused: no backend 'inductor' here: NoBackend: inductor needs a C++ compiler" in done.stdout
    assert "torch.Size([4, 8, 8])" in done.stdout
    assert "refused: no backend 'openvino' here: openvino is not installed" in done.stdout


def test_a_backend_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(NoBackend, match="auto, eager, openvino or inductor, got 'tensorrt'"):
        use_backend(loaded(GOLDEN[0]), "tensorrt")


@pytest.mark.parametrize("case", GOLDEN)
def test_a_compiled_pipeline_has_no_graph_break_and_is_not_compiled_again(case: str) -> None:
    from torch._dynamo.utils import counters

    plain, fast = loaded(case), loaded(case)
    torch.compiler.reset()
    counters.clear()
    fast.networks = compile_networks(fast, TILE, None, compiler="aot_eager")
    channels = plain.vae.latent_channels
    tiles: list[list[Op]] = [[Predict(noise(channels, TILE, TILE))] * batch for batch in (1, 2)]
    for ops in tiles:
        assert_same(fast.execute(ops), plain.execute(ops))
    graphs = counters["stats"]["unique_graphs"]
    assert graphs
    # As many pixels as at first: torch's CPU convolutions, and they alone, change their way at a certain number.
    for height, width in ((96, 96), (144, 64), (48, 192)):
        latent = noise(channels, height // 8, width // 8)
        for op in (Encode(noise(3, height, width)), Predict(latent), Decode(latent)):
            assert_same(fast.execute([op]), plain.execute([op]))
        assert_same(list(fast.encode(noise(4, 3, height, width))), list(plain.encode(noise(4, 3, height, width))))
    for ops in tiles:
        fast.execute(ops)
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", GOLDEN)
def test_on_a_gpu_batches_are_replayed_with_the_plain_output(case: str, tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    plain, fast = on_gpu(loaded(case)), on_gpu(loaded(case))
    assert use_backend(fast, "inductor", tmp_path).backends == {"inductor"}
    tiles: list[list[Op]] = [
        [Predict(upload(noise(plain.vae.latent_channels, TILE, TILE), plain.device))] * batch for batch in (1, 2, 4, 8)
    ]
    for ops in tiles:
        assert_same(fast.execute(ops), plain.execute(ops))
    graphs = counters["stats"]["unique_graphs"]
    photo = noise(3, 96, 240)
    assert torch.equal(download(upload(photo, fast.device)), photo)
    for ops in [*tiles, [Encode(upload(photo, fast.device))]]:
        assert_same(fast.execute(ops), plain.execute(ops))
    assert counters["stats"]["unique_graphs"] == graphs


def on_gpu(pipe: OMGSRPipeline) -> OMGSRPipeline:
    """Float32 as a CPU has it, to compare with."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    denoiser: Any = pipe.denoiser
    for name, value in vars(denoiser).items():
        if isinstance(value, Tensor):
            setattr(denoiser, name, value.cuda())
    denoiser.network.cuda()
    pipe.vae.cuda()
    return pipe


def test_openvino_tells_its_makers_nothing() -> None:
    asked = "import sys, model.backend.openvino; print(sys.modules['openvino_telemetry'])"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout == "None\n"
