"""A training step of AlexNet: plain, guided by the fused loss, and guided by the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.gpu_timing import Timer
from bench.report import markdown
from fastcam import reference

Step = Callable[[], Tensor]  # forward, backward, optimizer; the loss


def steps(device: str, batch: int, size: int) -> dict[str, Step]:
    """The three, on one model and one batch."""
    import torchvision

    import fastcam

    model = torchvision.models.alexnet(num_classes=40).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = (torch.rand(batch, 40, device=device) > 0.5).float()
    with torch.no_grad():
        regions = torch.rand(batch, *model.features[:12](images).shape[-2:], device=device)
    criterion = fastcam.IoUCamLoss()
    bce = torch.nn.functional.binary_cross_entropy_with_logits

    def finish(loss: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def plain() -> Tensor:
        return finish(bce(model(images), labels))

    def fused() -> Tensor:
        with fastcam.ActivationTap(model, "features.11", gradient_at="features.12") as tap:
            logits = model(images)
            guide = criterion(logits, tap, regions, targets=36)
        return finish(bce(logits, labels) + 5.0 * guide)

    def eager() -> Tensor:
        activations = model.features[:12](images)
        pooled = model.avgpool(model.features[12:](activations))
        logits = model.classifier(torch.flatten(pooled, 1))
        (gradients,) = torch.autograd.grad(logits[:, 36].sum(), activations, create_graph=True)
        guide = reference.cam_iou_loss(activations, gradients, regions)
        return finish(bce(logits, labels) + 5.0 * guide)

    return {"plain": plain, "guided, fused": fused, "guided, eager autograd": eager}


def measure_step(timer: Timer, device: str, batch: int = 64, size: int = 224) -> dict[str, Any]:
    """Time and peak memory of each."""
    made = steps(device, batch, size)
    return {
        "step": f"AlexNet, {batch} images of {size} px, float32",
        "seconds": {name: timer(step) for name, step in made.items()},
        "peak_bytes": {name: timer.peak_bytes(step) for name, step in made.items()},
    }


def step_table(step: dict[str, Any]) -> str:
    seconds, peaks = step["seconds"], step["peak_bytes"]
    plain = seconds["plain"].median
    rows = [
        [
            name,
            f"{1e3 * t.median:.2f} ({1e3 * t.p20:.2f} to {1e3 * t.p80:.2f})",
            f"{100 * (t.median / plain - 1):+.0f} %",
            "?" if peaks[name] is None else f"{peaks[name] / 2**20:.0f}",
        ]
        for name, t in seconds.items()
    ]
    return markdown((step["step"], "ms (p20 to p80)", "against plain", "peak MiB"), rows)
