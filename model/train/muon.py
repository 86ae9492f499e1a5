"""Muon: momentum whose update is orthogonalised, for the hidden matrices and convolutions of a network.

Small convolutional networks learn markedly faster with it than with AdamW in short CPU runs.
https://kellerjordan.github.io/posts/muon/ describes the method and the polynomial's coefficients.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalize(update: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix of [R,C] (approximately: singular values land in about 0.7…1.2)."""
    a, b, c = QUINTIC
    x: Tensor = update / (update.norm() + 1e-7)
    x = x.T if (tall := x.shape[0] > x.shape[1]) else x
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; a convolution [O,I,kh,kw] is treated as the matrix [O, I·kh·kw]."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, _closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; a closure is not supported."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, param.grad, group)

    def _update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state["momentum"] = torch.zeros_like(param)
        momentum = state["momentum"].lerp_(grad, 1 - group["momentum"])
        update = orthogonalize(grad.lerp(momentum, group["momentum"]).flatten(1)).view_as(param)
        scale = max(1.0, param.shape[0] / param[0].numel()) ** 0.5
        param.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)
