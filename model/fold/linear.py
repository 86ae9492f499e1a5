"""Linear layers with their weight as it is multiplied: `nn.Linear` transposes it at every call, one operator more."""

import torch
from torch import Tensor, nn


class Product(nn.Module):
    """x·W + b of tokens [N,I], with W [I,O]."""

    bias: nn.Parameter | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.t().contiguous(), requires_grad=False)
        self.bias = layer.bias

    def forward(self, tokens: Tensor) -> Tensor:
        """[N,I] → [N,O]."""
        return tokens @ self.weight if self.bias is None else torch.addmm(self.bias, tokens, self.weight)

    def as_linear(self) -> nn.Linear:
        """The layer that it was made of."""
        inputs, outputs = self.weight.shape
        layer = nn.Linear(inputs, outputs, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight.t().contiguous(), requires_grad=False)
        if self.bias is not None:
            layer.bias = self.bias
        return layer


def as_products(network: nn.Module) -> None:
    """Replace every linear layer of a network that gives it tokens [N,I], in place."""
    for name, layer in list(network.named_modules()):
        if type(layer) is nn.Linear:
            network.set_submodule(name, Product(layer))


def as_linear_layers(network: nn.Module) -> None:
    """Undo `as_products`, for what knows linear layers alone: to quantise them."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Product):
            network.set_submodule(name, layer.as_linear())
