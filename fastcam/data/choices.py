"""Named choices of the transforms, to be known without importing torchvision."""

from __future__ import annotations

from typing import Literal

Fit = Literal["crop", "face", "stretch"]
Augmentation = Literal["none", "flip", "full"]
#: Where an image has one of several classes: in place of a class's name, that of each image.
OWN_CLASS = "own_class"
