"""The terms of OMGSR's objective, 5·LDR + 2·MSE + 5·OC-LPIPS + 0.5·OC-GAN (eq. 16), one module each.

- ``ldr``: latent distribution refinement, eq. 10 and 11.
- ``chunks``: the overlapping chunks of eq. 14 and 15, and any loss of two images computed over them.
- ``lpips``: LPIPS on VGG16, eq. 14 when chunked; ``deep_feature`` stands in its place where there is no VGG16.
- ``structure``: DISTS, an optional structural term.
- ``gan``: the discriminator on a frozen backbone, eq. 15 when chunked; ``augment``: what it does to its inputs.
- ``backbones``: frozen VGG16, DINOv2 and DINOv3 ConvNeXt feature maps; ``mobilenet_v2``: those of MobileNetV2.
"""
