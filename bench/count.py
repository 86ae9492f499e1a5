"""What an image costs, counted on tensors without data: exact, repeatable, for full-size networks on any machine.

FLOPs are those of convolutions, matrix products and attention. An operator is what PyTorch dispatches, a launch is one
that computes (the others give a view); attention and RMS norm are one of each, as on a GPU. Bytes are those that the
launches read and write, each by itself: what a kernel that fuses two of them saves is not in them.
"""

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ATTENTION, RMS_NORM = torch.ops.aten.scaled_dot_product_attention, torch.ops.aten.rms_norm
FORMULAS: dict[Any, Any] = flop_registry | {
    ATTENTION: flop_registry[torch.ops.aten._scaled_dot_product_flash_attention]
}


@dataclass(frozen=True)
class Cost:
    """Of running something once."""

    flops: int = 0
    operators: int = 0
    launches: int = 0
    moved: int = 0
    """Bytes read and written."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def total(costs: Iterable[Cost]) -> Cost:
    """Of running all."""
    return sum(costs, Cost())


def _attention(query: Tensor, _key: Tensor, value: Tensor, *_others: Any) -> Tensor:
    """The result's shape and layout, as fused kernels have it: heads inside of positions."""
    *batch, heads, length, _ = query.shape
    return query.new_empty(*batch, length, heads, value.shape[-1]).transpose(-2, -3)


def _rms_norm(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


FUSED: dict[Any, Callable[..., Tensor]] = {ATTENTION: _attention, RMS_NORM: _rms_norm}
"""Kernels that a GPU has whole, and tensors without data only in pieces: what they give."""


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is dispatched within."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.operators = self.launches = self.moved = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if fused := FUSED.get(func.overloadpacket):
            result = fused(*args)
        else:
            with self:  # inference mode hands over operators that are made of others
                if (made_of_others := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return made_of_others
            result = func(*args, **kwargs)
        self._note(func, args, kwargs, result)
        return result

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        given, made = _tensors((args, kwargs)), _tensors(result)
        self.operators += 1
        known = {each.untyped_storage()._cdata for each in given}
        computes = func._schema.is_mutable or any(each.untyped_storage()._cdata not in known for each in made)
        if computes and "empty" not in func.__name__:
            self.launches += 1
            self.moved += sum(map(_bytes, (*given, *made)))
        if formula := FORMULAS.get(func.overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)


def counted(once: Callable[[], object]) -> Cost:
    """What `once`, on tensors of the meta device, costs."""
    with torch.inference_mode(), Operators() as seen:  # in inference mode attention comes in one piece
        once()
    return Cost(seen.flops, seen.operators, seen.launches, seen.moved)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """Of the elements; an expanded dimension counts once."""
    count = tensor.itemsize
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count
