"""VGG16's feature maps, the backbone of LPIPS and DISTS."""

from pathlib import Path

from torch import Tensor, nn

from model.train.losses.backbones import ImageNetNorm, load_weights, restore

VGG16_SOURCE = "torchvision's ImageNet weights, https://download.pytorch.org/models/vgg16-397923af.pth"


def vgg16_layers(pool: nn.Module) -> nn.Sequential:
    """VGG16's convolutions up to relu5_3, numbered as torchvision's ``features``, ``pool`` between blocks; random."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        if layers:
            layers.append(pool)
        for _ in range(convolutions):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = outputs
    return nn.Sequential(*layers)


class VGG16Maps(nn.Module):
    """relu1_2, 2_2, 3_3, 4_3 and 5_3 of VGG16: [B,(64|128|256|512|512),H/2ⁿ,W/2ⁿ], n = 0…4.

    ``weights`` is a state dict with torchvision's names; ``pool`` takes the place of max pooling.
    """

    channels = (64, 128, 256, 512, 512)

    def __init__(self, weights: Path, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = ImageNetNorm()
        self.features = vgg16_layers(pool or nn.MaxPool2d(2))
        restore(self, load_weights(weights, VGG16_SOURCE), weights)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps, largest first; sides of at least 16 pixels."""
        x = self.norm(images)
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in (3, 8, 15, 22, 29):
                maps.append(x)
        return maps
