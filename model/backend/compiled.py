"""The networks through torch.compile, without a graph break; on CUDA the denoiser's batches are CUDA graphs."""

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from model.family import Denoiser
from model.networks import Network, Networks
from model.pipeline import OMGSRPipeline
from model.vae import VAE

MOST_GRAPHS = 256
"""Of one function: a block's places in the networks of all models, times the batch sizes."""
UNEQUAL = (64, 144)
"""Pixels: sides of the first image that the VAE is compiled for. Equal ones would be taken for one and the same."""

T = TypeVar("T", VAE, Denoiser)


@torch.no_grad()
def compile_networks(pipe: OMGSRPipeline, tile: int, cache: Path | None, *, compiler: str = "inductor") -> Networks:
    """The networks of `pipe`, compiled; its own stay as they are, and the weights are shared.

    The denoiser is compiled block by block for each batch size at `tile` × `tile` latents (another size is predicted as
    before), the VAE for all sizes at once. `cache`: folder in which Inductor keeps what it has built. `compiler`: a
    backend of torch.compile.
    """
    if cache is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str((cache / "inductor").resolve())
        # In a container the home folder may be a /tmp that no library can be loaded from.
        os.environ.setdefault("TRITON_CACHE_DIR", str((cache / "triton").resolve()))
    cuda, plain, t = pipe.device.type == "cuda", pipe.networks, pipe.mid_timestep
    if cuda:  # a CPU's own GroupNorm is imprecise in this layout, and Inductor chooses its own
        for network in (pipe.denoiser.network, pipe.vae):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    denoiser, vae = _twin(pipe.denoiser, pipe.denoiser.network), _twin(pipe.vae, pipe.vae)
    for block in blocks(denoiser.network):
        mode = "max-autotune-no-cudagraphs" if cuda else None
        block.compile(fullgraph=True, dynamic=False, backend=compiler, mode=mode, recompile_limit=MOST_GRAPHS)
    for half in (vae.autoencoder.encoder, vae.autoencoder.decoder):
        half.compile(fullgraph=True, dynamic=True, backend=compiler, recompile_limit=MOST_GRAPHS)
    for batch in (1, 2):  # one image is compiled apart from several
        vae.decode(vae.encode(torch.zeros(batch, 3, *UNEQUAL, device=pipe.device)))

    def usual(z_l: Tensor) -> Tensor:
        return denoiser(z_l, t)

    tiles: Network = Replayed(usual) if cuda else usual

    def predict(z_l: Tensor) -> Tensor:
        return tiles(z_l) if z_l.shape[-2:] == (tile, tile) else plain.predict(z_l)

    return Networks(vae.encode, predict, vae.decode)


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """What is compiled as one: its parts, also those in lists. torch's own layers are one kernel each."""
    for part in network.children():
        if type(part).__module__.startswith("torch.nn."):
            yield from blocks(part)
        else:
            yield part


def _twin(whole: T, network: nn.Module) -> T:
    """A copy of all but the tensors of `network`: compiled, it leaves the other as it is."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(whole, shared)


@dataclass
class Replayed:
    """A network whose inputs have few shapes: the work of each is recorded once as a CUDA graph, then replayed."""

    network: Network
    recorded: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, batch: Tensor) -> Tensor:
        """[B,C,h,w] → the same shape."""
        if batch.shape not in self.recorded:
            self.recorded[batch.shape] = self._record(batch)
        graph, given, made = self.recorded[batch.shape]
        given.copy_(batch)
        graph.replay()
        return made.clone()

    def _record(self, batch: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        given = batch.clone()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # compiling and autotuning must not be recorded
            self.network(given)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = self.network(given)
        return graph, given, made
