"""What a training run is, in plain values: the same settings give the same run."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fastcam.cam.heads import Head
from fastcam.data.choices import Augmentation, Fit
from fastcam.losses.cam import WeightGrad
from fastcam.ops.cam_loss import Binarize
from fastcam.regions import Region, template_landmarks
