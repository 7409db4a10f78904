"""fastcam: direct what an image classifier looks at, with fused Grad-CAM losses for PyTorch.

``fastcam.functional`` holds the losses as functions; ``fastcam.IoUCamLoss``, the other losses of
the map, and ``fastcam.ActivationTap`` are what a training loop uses; ``fastcam.reference`` is the
same in plain PyTorch. Importing fastcam needs torch and numpy only; ``fastcam.models``,
``fastcam.regions`` and the other parts are imported when they are first named, and say which extra
they need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

from fastcam._util import interrupt

interrupt.guard()  # before torch, whose import takes a second

from fastcam import functional, reference  # noqa: E402
from fastcam._util.lazy import attach  # noqa: E402
from fastcam.cam.maps import grad_cam_maps  # noqa: E402
from fastcam.cam.tap import ActivationTap  # noqa: E402
from fastcam.losses import *  # noqa: E402, F403
from fastcam.losses import __all__ as _losses  # noqa: E402
from fastcam.losses.cam import *  # noqa: E402, F403  (mypy misses these in the star above)
from fastcam.ops.library import build_info  # noqa: E402

__all__ = [
    "ActivationTap",
    "__version__",
    "build_info",
    "functional",
    "grad_cam_maps",
    "reference",
]
__all__ += _losses

if TYPE_CHECKING:
    from fastcam import analysis as analysis
    from fastcam import data as data
    from fastcam import demos as demos
    from fastcam import evaluation as evaluation
    from fastcam import experiments as experiments
    from fastcam import faces as faces
    from fastcam import heads as heads
    from fastcam import models as models
    from fastcam import regions as regions
    from fastcam import report as report
    from fastcam import studio as studio
    from fastcam import training as training

_PARTS = (
    "analysis",
    "data",
    "demos",
    "evaluation",
    "experiments",
    "faces",
    "heads",
    "models",
    "regions",
    "report",
    "studio",
    "training",
)
if not TYPE_CHECKING:  # a checker would take any name for one of these, of any type
    __getattr__, __dir__ = attach(__name__, dict.fromkeys(_PARTS, ""))
