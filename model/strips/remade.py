"""A map that is made anew whenever it is visited: cheaper than to keep where one layer makes it of few channels."""

import torch
from torch import Tensor

from model.strips.layers import Layer
from model.strips.maps import Host, Map
from model.strips.moments import Norming


class Remade(Map):
    """What `layer` makes of `source`, both of equal height. Strips that are put, or added to, are kept from then on.

    The encoder's first map: of a picture's three channels come a hundred, and with the branch beside it this map would
    be half of what an image takes. A pass over the strips keeps all of them or none.
    """

    def __init__(self, source: Map, layer: Layer, device: torch.device, host: Host) -> None:
        super().__init__(device, host)
        self._source, self._layer = source, layer
        for index in range(len(source)):
            self.moments.add(self.window(index))

    def __len__(self) -> int:
        return len(self._source)

    def strip(self, index: int) -> Tensor:
        """Kept, or made for the caller alone."""
        return super().strip(index) if index in self._strips else self.window(index)

    def window(self, index: int, above: int = 0, below: int = 0, norming: Norming | None = None) -> Tensor:
        """Of what is kept, or of the source's strip and more of its neighbours."""
        if index in self._strips:
            return super().window(index, above, below, norming)
        made = self._layer.run(self._source.window(index, above + self._layer.above, below + self._layer.below))
        if norming:
            norming(made, made)
        if index == 0:
            made[:, :, :above] = 0
        if index == len(self) - 1:
            made[:, :, made.shape[2] - below :] = 0
        return made

    def add(self, index: int, strip: Tensor) -> Tensor:
        """From now on the sum is kept."""
        if index in self._strips:
            return super().add(index, strip)
        strip += self.window(index)
        self.put(index, strip)
        return strip

    def drop(self, index: int) -> None:
        """Give back what is kept."""
        self._strips.pop(index, None)
