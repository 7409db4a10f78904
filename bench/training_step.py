"""A fine-tuning step: plain, guided by the fused loss, and guided by plain autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import fastcam
from bench.gpu_timing import Timer
from bench.report import markdown
from fastcam import reference
from fastcam.cam.heads import Head

Loss = Callable[[], Tensor]  # forward
Step = Callable[[], Tensor]  # forward, backward, optimizer; the loss

ATTRIBUTES = 40
FIRST = 36  # the attribute of a step with one target; more targets begin at 0
LAYERS = {  # tapped layer, where the gradient is taken
    "alexnet": ("features.11", "features.12"),
    "vgg16": ("features.29", "features.30"),
    "resnet50": ("layer4", None),
}


class FineTuning:
    """One model of torchvision in train mode, one batch, 40 attributes, SGD with momentum."""

    def __init__(self, network: str, batch: int, size: int = 224, device: str = "cpu") -> None:
        import torchvision

        self.name = f"{network}, {batch} images of {size} px, float32"
        self.model = torchvision.models.get_model(network, num_classes=ATTRIBUTES).to(device)
        self.layer, self.gradient_at = LAYERS[network]
        self._tap = fastcam.ActivationTap(self.model, self.layer, self.gradient_at)
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)
        self._images = torch.randn(batch, 3, size, size, device=device)
        self._labels = (torch.rand(batch, ATTRIBUTES, device=device) > 0.5).float()
        self.model.eval()
        with torch.no_grad(), self._tap as tap:
            self.model(self._images[:1])
            cells = tap.activations.shape[-2:]
        self.model.train()
        self._regions = torch.rand(batch, ATTRIBUTES, *cells, device=device)

    @cache  # noqa: B019
    def _chosen_regions(self, targets: int) -> Tensor:
        """Made once: indexing with a list would wait for the GPU in every step."""
        return self._regions[:, _chosen(targets)].contiguous()

    def _bce(self, logits: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, self._labels)

    def plain(self) -> Tensor:
        return self._bce(self.model(self._images))

    def fused(self, targets: int = 1, head: Head = "auto") -> Tensor:
        chosen = _chosen(targets)
        with self._tap as tap:
            logits = self.model(self._images)
            guide = fastcam.IoUCamLoss(head=head)(
                logits, tap, self._chosen_regions(targets), targets=chosen
            )
        return self._bce(logits) + 5.0 * guide

    def eager(self, targets: int = 1) -> Tensor:
        """As one writes it without fastcam: a hook, and autograd through the head, twice."""
        seen: list[Tensor] = []
        layer = self.model.get_submodule(self.layer)
        hook = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        logits = self.model(self._images)
        hook.remove()
        chosen = _chosen(targets)
        gradients = [
            torch.autograd.grad(logits[:, target].sum(), seen[0], create_graph=True)[0]
            for target in chosen
        ]
        guide = reference.cam_iou_loss(
            seen[0], torch.stack(gradients, dim=1), self._chosen_regions(targets)
        )
        return self._bce(logits) + 5.0 * guide

    def step(self, loss: Loss) -> Step:
        def run() -> Tensor:
            value = loss()
            self._optimizer.zero_grad(set_to_none=True)
            value.backward()
            self._optimizer.step()
            return value.detach()

        return run

    def gradients(self, loss: Loss) -> list[Tensor]:
        """Of the loss in every parameter, with the same dropout each time; changes none."""
        torch.manual_seed(0)
        return list(torch.autograd.grad(loss(), list(self.model.parameters())))


def _chosen(targets: int) -> list[int]:
    return [FIRST] if targets == 1 else list(range(targets))


def measure_step(timer: Timer, device: str, batch: int = 64, size: int = 224) -> dict[str, Any]:
    """Time and peak memory of AlexNet's step, plain and guided."""
    tuning = FineTuning("alexnet", batch, size, device)
    losses: dict[str, Loss] = {
        "plain": tuning.plain,
        "guided, fused": tuning.fused,
        "guided, fused, mean dropout": partial(tuning.fused, head="mean_dropout"),
        "guided, eager autograd": tuning.eager,
    }
    made = {name: tuning.step(loss) for name, loss in losses.items()}
    return {
        "step": tuning.name,
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
