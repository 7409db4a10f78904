"""torchvision's networks in tiny configurations, float64, with the layer to guide in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from networks import CLASSES
from torch import Tensor, nn


@dataclass(frozen=True)
class TinyNet:
    """A network for images of ``size`` pixels, in train mode."""

    make: Callable[[], nn.Module]
    layer: str
    size: int
    reshape: Any = None
    gradient_at: str | None = None
    read: Callable[[Tensor], Tensor] = lambda output: output  # the map, as one would write it

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().double().train()


def tokens_as_pytorch_grad_cam_reads_them(output: Tensor) -> Tensor:
    result = output[:, 1:, :].reshape(output.size(0), 4, 4, output.size(2))
    return result.transpose(2, 3).transpose(1, 2)


def nhwc(output: Tensor) -> Tensor:
    return output.transpose(2, 3).transpose(1, 2)


def vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    net = VisionTransformer(32, 8, 2, 2, 12, 24, num_classes=CLASSES, dropout=0.1)
    nn.init.normal_(net.heads.head.weight)  # torchvision begins with zeros, and dead maps
    return net


def swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([2, 2], 8, [2, 2], [2, 2], [4, 4], num_classes=CLASSES)


def convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    net = ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], num_classes=CLASSES)
    for name, parameter in net.named_parameters():
        if name.endswith("layer_scale"):
            nn.init.ones_(parameter)  # of 1e-6, a block would be its shortcut
    return net


def efficientnet() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    blocks = [MBConvConfig(1, 3, 1, 8, 8, 1), MBConvConfig(4, 3, 2, 8, 16, 2)]
    return EfficientNet(blocks, dropout=0.2, num_classes=CLASSES, last_channel=24)


def resnet() -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)


def vgg() -> nn.Module:
    from torchvision.models.vgg import VGG, make_layers

    with torch.device("meta"):  # its linear layers take a second
        net = VGG(make_layers([8, "M", 16, 16, "M"]), init_weights=False)
    net.features = make_layers([8, "M", 16, 16, "M"])
    net.classifier = nn.Sequential(
        nn.Linear(16 * 49, 24), nn.ReLU(True), nn.Dropout(),
        nn.Linear(24, 24), nn.ReLU(True), nn.Dropout(), nn.Linear(24, CLASSES),
    )  # fmt: skip
    return net


NETS: dict[str, TinyNet] = {
    "vit": TinyNet(
        vit, "encoder.layers.encoder_layer_1.ln_1", 32, "tokens",
        read=tokens_as_pytorch_grad_cam_reads_them,
    ),
    "swin": TinyNet(swin, "features", 16, "nhwc", read=nhwc),
    "swin, permuted": TinyNet(swin, "permute", 16),
    "convnext": TinyNet(convnext, "features", 32),
    "efficientnet": TinyNet(efficientnet, "features", 32),
    "resnet": TinyNet(resnet, "layer4", 64),
    "vgg": TinyNet(vgg, "features.6", 32, gradient_at="features.7"),
}  # fmt: skip
