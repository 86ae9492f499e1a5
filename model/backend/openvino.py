"""The networks through OpenVINO: float32 on a CPU, the VAE for any size, the denoiser for the size of a tile."""

import hashlib
import shutil
import sys
import tempfile
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from model.backend.norm import pooled_norms
from model.networks import Network, Networks, Stage
from model.pipeline import OMGSRPipeline
from model.plan import LATENT

# OpenVINO tells its makers of each use, and writes into the home folder, unless this package is absent.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

TRACED = (56, 72)
"""Pixels: sides of the image that the VAE is traced with; those of its inputs are free. In latents they have no
common divisor, so that at each level they share the one that all images have there."""
MODEL = "model.xml"


def convert(pipe: OMGSRPipeline, tile: int, cache: Path | None) -> Networks:
    """The networks of `pipe`, compiled for as many threads as torch has. `tile`: latents, side of the usual tile.

    A latent of another size than tile × tile is predicted as before. `cache`: folder for the converted models.
    """
    core, plain, channels = openvino.Core(), pipe.networks, pipe.vae.latent_channels
    height, width = TRACED
    side = pipe.geometry.process_size

    def converted(stage: Stage, holder: nn.Module, *shape: int, sides: tuple[int, int]) -> openvino.Model:
        module, example = _Traceable(plain[stage], holder), torch.zeros(1, *shape)
        folder = cache and cache / "openvino" / f"{stage}-{_fingerprint(pipe, holder, sides)}"
        return _converted(core, module, example, sides, folder)

    def half(stage: Stage, *shape: int, usual: int) -> "Compiled":
        return Compiled(core, converted(stage, pipe.vae, *shape, sides=(-1, -1)), usual)

    usual = Compiled(core, converted("predict", pipe.denoiser.network, channels, tile, tile, sides=(tile, tile)))

    def predict(z_l: Tensor) -> Tensor:
        return usual(z_l) if z_l.shape[-2:] == (tile, tile) else plain.predict(z_l)

    encode = half("encode", 3, height, width, usual=side)
    decode = half("decode", channels, height // LATENT, width // LATENT, usual=side // LATENT)

    def rest() -> None:
        for each in (encode, usual, decode):
            each.rest()

    return Networks(encode, predict, decode, rest)


class Compiled:
    """One network. Items of a batch go one by one: an image's result does not depend on its neighbours.

    `usual`: side of the square maps for which a model of any size is compiled once more. Where it knows the size
    OpenVINO fuses more steps: about 1.15 times as fast. It is the size that all small photos are brought to.
    """

    def __init__(self, core: openvino.Core, model: openvino.Model, usual: int | None = None) -> None:
        self._any = self._request(core, model)
        self._usual, self._requests = usual, [self._any]
        if usual is not None:
            fixed = model.clone()
            fixed.reshape([1, model.input().partial_shape[1].get_length(), usual, usual])
            self._fixed = self._request(core, fixed)
            self._requests.append(self._fixed)

    def __call__(self, batch: Tensor) -> Tensor:
        """[B,…] → [B,…]."""
        return torch.cat([self._run(item) for item in batch.unbind()])

    def _run(self, item: Tensor) -> Tensor:
        request = self._fixed if item.shape[-2:] == (self._usual, self._usual) else self._any
        results = request.infer([item[None].contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(results[0])

    def rest(self) -> None:
        """Give back the maps of the largest image so far, which are kept for the next: of 2 megapixels, a gigabyte."""
        for request in self._requests:
            request.get_compiled_model().release_memory()

    @staticmethod
    def _request(core: openvino.Core, model: openvino.Model) -> openvino.InferRequest:
        exact = {
            "INFERENCE_PRECISION_HINT": "f32",
            "EXECUTION_MODE_HINT": "ACCURACY",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
            "ENABLE_CPU_PINNING": False,  # others run on these cores too
            "CPU_RUNTIME_CACHE_CAPACITY": "0",  # or 2 MB more for each new size of image, for ever; it saves 5 % there
        }
        return core.compile_model(model, "CPU", exact).create_infer_request()


class _Traceable(nn.Module):
    """A network as a module that holds its weights, which tracing asks for."""

    def __init__(self, network: Network, holder: nn.Module) -> None:
        super().__init__()
        self.holder = holder
        self.network = network

    def forward(self, batch: Tensor) -> Tensor:
        return self.network(batch)


def _converted(
    core: openvino.Core, module: nn.Module, example: Tensor, sides: tuple[int, int], folder: Path | None
) -> openvino.Model:
    """From the folder, or made and put there; weights are then mapped from the file, not copied."""
    if folder is None:
        return _convert(module, example, sides)
    try:
        return core.read_model(folder / MODEL)
    except RuntimeError:  # not there, or damaged
        shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        openvino.save_model(_convert(module, example, sides), Path(made) / MODEL, compress_to_fp16=False)
        with suppress(OSError):  # another process was first
            Path(made).rename(folder)
    return core.read_model(folder / MODEL)


def _convert(module: nn.Module, example: Tensor, sides: tuple[int, int]) -> openvino.Model:
    module.eval()(example)  # what it computes once and keeps is kept before the trace, and no part of it
    with (
        pooled_norms(module),
        warnings.catch_warnings(),
    ):  # a trace makes constants of what the code asks of channels: just what is wanted
        warnings.simplefilter("ignore")
        return openvino.convert_model(module, example_input=example, input=[[1, example.shape[1], *sides]])


def _fingerprint(pipe: OMGSRPipeline, holder: nn.Module, sides: tuple[int, int]) -> str:
    """Of all that decides what a network computes, and of who converts it."""
    told = (version("omgsr-serve"), torch.__version__, openvino.__version__, sides, pipe.mid_timestep)
    digest = hashlib.sha256(repr((told, pipe.vae.scaling, pipe.vae.shift, holder)).encode())
    prompt = [value for value in vars(pipe.denoiser).values() if isinstance(value, Tensor)]
    for tensor in (*holder.state_dict().values(), *prompt):
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()[:32]
