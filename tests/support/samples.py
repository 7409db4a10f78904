"""Inputs of the Grad-CAM ops, and what they must give: obvious, one cell at a time, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastcam.ops.cam_loss import loss_and_status, map_loss
from fastcam.ops.grad_cam import prepare
from fastcam.ops.pair_cells import PairCells


@dataclass
class Sample:
    """One call of ``cam_iou_loss``: tensors and keyword arguments."""

    activations: Tensor
    gradients: Tensor
    regions: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def leaves(self) -> tuple[Tensor, Tensor]:
        """Fresh leaves with the same values, dtypes and strides."""
        return tuple(
            torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device)
            .copy_(t)
            .requires_grad_()
            for t in (self.activations, self.gradients)
        )  # type: ignore[return-value]

    def on(self, device: torch.device) -> Sample:
        """The same call, strides and all, on a device (options hold no tensors)."""
        return Sample(
            *(
                torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device).copy_(t)
                for t in (self.activations, self.gradients, self.regions)
            ),
            dict(self.options),
        )

    def to(self, dtype: torch.dtype) -> Sample:
        """The same call in another dtype (options stay)."""
        return Sample(
            self.activations.to(dtype), self.gradients.to(dtype), self.regions, dict(self.options)
        )


def status_of(sample: Sample, loss: str = "iou", **options: Any) -> Tensor:
    """The status of every pair of a call: uint8 [N,T]."""
    activations, gradients = prepare(sample.activations, sample.gradients)
    pairs = gradients.shape[:2]
    cells = PairCells.of(sample.regions, None, None, activations, pairs)
    which = map_loss(loss, **options)
    return loss_and_status(
        activations, gradients, cells, which, max_pair_pull=None, reduction="mean"
    )[1]


LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed")


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values in other strides; the last three axes are channel, row, column."""
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "channels_last":
        return tensor.movedim(-3, -1).contiguous().movedim(-1, -3)
    if layout == "sliced":  # dense planes with gaps between samples, and an odd storage offset
        wide = tensor.new_full(
            (tensor.shape[0] + 1, *tensor.shape[1:-3], tensor.shape[-3] + 3, *tensor.shape[-2:]),
            float("nan"),
        )
        view = wide[1:, ..., 1 : 1 + tensor.shape[-3], :, :]
        return view.copy_(tensor)
    if layout == "transposed":  # rows and columns swapped: no kernel reads this in place
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    raise AssertionError(layout)


def far_apart(*tensors: Tensor) -> list[Tensor]:
    """The same values in 16 bits, two samples with more values between them than 32 bits count.

    All lie in one buffer of 4 GiB, of which a CPU takes no more memory than what is written.
    """
    far = 2**31 + 8
    room = sum(tensor[0].numel() for tensor in tensors)
    buffer = tensors[0].new_empty(far + room, dtype=torch.float16)
    views, begin = [], 0
    for tensor in tensors:
        strides = (far, *tensor[0].contiguous().stride())
        views.append(buffer.as_strided(tensor.shape, strides, begin).copy_(tensor))
        begin += tensor[0].numel()
    return views


# N, T, C, (H, W), (H', W')
SHAPES = (
    (1, 1, 1, (1, 1), (1, 1)),
    (2, 1, 5, (3, 2), (3, 2)),
    (3, 2, 19, (7, 7), (3, 3)),
    (2, 5, 33, (13, 13), (6, 6)),
    (2, 3, 40, (4, 5), (1, 1)),
    (5, 1, 64, (14, 14), (7, 7)),
)


def make(
    shape: tuple[int, int, int, tuple[int, int], tuple[int, int]],
    *,
    dtype: torch.dtype = torch.float32,
    layout: str = "contiguous",
    device: torch.device | str = "cpu",
    seed: int = 0,
    **options: Any,
) -> Sample:
    """A call whose maps are alive: ReLU-like activations, channel weights with a positive mean."""
    n, t, c, cells, grad_cells = shape
    rng = torch.Generator().manual_seed(seed)
    activations = torch.rand((n, c, *cells), generator=rng, dtype=torch.float64) - 0.3
    gradients = torch.randn((n, t, c, *grad_cells), generator=rng, dtype=torch.float64) + 0.2
    regions = torch.rand((n, t, *cells), generator=rng, dtype=torch.float64).round(decimals=2)
    moved = {
        key: value.to(device) if isinstance(value, Tensor) else value
        for key, value in options.items()
    }
    return Sample(
        lay_out(activations.relu().to(device, dtype), layout),
        lay_out(gradients.to(device, dtype), layout),
        regions.to(device, torch.float64 if dtype == torch.float64 else torch.float32),
        moved,
    )


def weights_for(shape: tuple[int, int, int, tuple[int, int], tuple[int, int]]) -> dict[str, Tensor]:
    """Cell weights in every shape that is allowed."""
    n, t, _, (h, w), _ = shape
    rng = torch.Generator().manual_seed(7)

    def some(*sizes: int) -> Tensor:
        return 1 + 2 * torch.rand(sizes, generator=rng)

    return {
        "[H,W]": some(h, w),
        "[1,1,H,W]": some(1, 1, h, w),
        "[N,1,H,W]": some(n, 1, h, w),
        "[1,T,H,W]": some(1, t, h, w),
        "[N,T,H,W]": some(n, t, h, w),
    }


# ---- the expectation -----------------------------------------------------------------------------


def expected_cam(activations: Tensor, gradients: Tensor, normalize: bool = True) -> Tensor:
    """Grad-CAM cell by cell, float64."""
    a, d = activations.detach().double().cpu(), gradients.detach().double().cpu()
    n_, t_, c_ = d.shape[:3]
    h_, w_ = a.shape[2:]
    cam = torch.zeros(n_, t_, h_, w_, dtype=torch.float64)
    for n in range(n_):
        for t in range(t_):
            alpha = [float(d[n, t, c].sum()) / (h_ * w_) for c in range(c_)]
            for i in range(h_):
                for j in range(w_):
                    value = sum(alpha[c] * float(a[n, c, i, j]) for c in range(c_))
                    cam[n, t, i, j] = value if value > 0 or math.isnan(value) else 0.0
            peak = float(cam[n, t].max())
            if normalize and peak != 0:
                cam[n, t] /= peak
    return cam


def soft_set(x: float, threshold: float, sharpness: float, binarize: str) -> float:
    if binarize == "hard":
        return float(x > threshold)
    if binarize == "sigmoid":
        return 1 / (1 + math.exp(-sharpness * (x - threshold)))
    if x < threshold:
        return threshold * (x / threshold) ** sharpness
    return 1 - (1 - threshold) * ((1 - x) / (1 - threshold)) ** sharpness


def expected_loss(sample: Sample) -> Tensor:
    """Loss [N,T] pair by pair, cell by cell, float64."""
    options = {"threshold": 0.5, "sharpness": 8.0, "binarize": "tone", "eps": 1e-6} | sample.options
    cam = expected_cam(sample.activations, sample.gradients)
    n_, t_, h_, w_ = cam.shape
    regions = sample.regions.double().cpu()
    weights = options.get("cell_weights")
    weights = torch.ones(h_, w_) if weights is None else weights.double().cpu()
    weights = weights.expand(n_, t_, h_, w_)
    where = options.get("where")
    where = torch.ones(n_, t_, dtype=torch.bool) if where is None else where.cpu()
    where = (where if where.dim() == 2 else where[:, None]).expand(n_, t_)
    loss = torch.zeros(n_, t_, dtype=torch.float64)
    for n in range(n_):
        for t in range(t_):
            intersection = union = size = 0.0
            for i in range(h_):
                for j in range(w_):
                    m = soft_set(
                        float(cam[n, t, i, j]),
                        options["threshold"],
                        options["sharpness"],
                        options["binarize"],
                    )
                    s, w = float(regions[n, t, i, j]), float(weights[n, t, i, j])
                    intersection += w * m * s
                    union += w * (m + s - m * s)
                    size += w * s
            if size != 0 and bool(where[n, t]):
                eps = options["eps"]
                loss[n, t] = -math.log((intersection + eps) / (union + eps))
    return loss
