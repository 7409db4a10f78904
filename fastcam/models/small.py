"""A small network that two cores train in a minute, with cells of an eighth of the image's side."""

from __future__ import annotations

from torch import Tensor, nn

from fastcam._util import checks as check
from fastcam.models.init import initialize

#: What the maps are pooled to before the linear layers, whatever the images' size.
_POOLED = 6


class SmallNetwork(nn.Module):
    """AlexNet in small: four convolutions (stride 8 in all), two poolings, two linear layers.

    1.1 million weights for 40 attributes; 96 pixels give 12×12 cells.

    Args:
        num_attributes: K, the number of logits.
        width: channels of the first convolution; the others are in proportion.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, num_attributes: int, width: int = 32) -> None:
        super().__init__()
        check.at_least("num_attributes", num_attributes, 1)
        check.at_least("width", width, 1)
        middle, wide = width + width // 2, 2 * width
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, middle, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, wide, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(_POOLED),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(wide * _POOLED**2, 4 * width),
            nn.ReLU(inplace=True),
            nn.Linear(4 * width, num_attributes),
        )
        initialize(self, self.classifier[-1])

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K] from normalised images [N, 3, H, W] (H, W ≥ 16)."""
        return self.classifier(self.features(images).flatten(1))
