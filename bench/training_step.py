"""A fine-tuning step: plain, guided by the fused loss, and guided by plain autograd."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastcam
from bench.gpu_timing import Timer
from bench.report import first_line, markdown, met
from bench.timing import Timing
from fastcam import reference
from fastcam.cam.heads import HEADS, Head

Loss = Callable[[], Tensor]  # forward
Step = Callable[[], Any]  # forward, backward, optimizer; the loss
Clock = Callable[[Mapping[str, Step]], dict[str, Timing]]

ATTRIBUTES = 40
FIRST = 36  # the attribute of a step with one target; more targets begin at 0
LAYERS = {  # tapped layer, where the gradient is taken
    "alexnet": ("features.11", "features.12"),
    "vgg16": ("features.29", "features.30"),
    "resnet50": ("layer4", None),
}

EAGER, COMPILED, GRAPH = LOOPS = ("eager", "compiled trunk", "CUDA graph")
PLAIN, EXACT, DROPOUT = ("plain", "guided, exact", "guided, mean dropout")
GATES = {  # batch and loss: how much longer than the plain step, in a loop of eager steps
    (64, EXACT): 0.20,
    (64, DROPOUT): 0.15,
    (256, EXACT): 0.12,
    (256, DROPOUT): 0.08,
}


class FineTuning:
    """One model of torchvision in train mode, one batch, 40 attributes, SGD with momentum."""

    def __init__(self, network: str, batch: int, size: int = 224, device: str = "cpu") -> None:
        import torchvision

        self.name = f"{network}, {batch} images of {size} px, float32"
        with torch.device(device):
            self.model = torchvision.models.get_model(network, num_classes=ATTRIBUTES)
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
        self._chosen: dict[int, Tensor] = {}
        self._criteria = {head: fastcam.IoUCamLoss(head=head) for head in HEADS}

    def _chosen_regions(self, targets: int) -> Tensor:
        """Made once: indexing with a list would wait for the GPU in every step."""
        if targets not in self._chosen:
            self._chosen[targets] = self._regions[:, _chosen(targets)].contiguous()
        return self._chosen[targets]

    def compile_trunk(self) -> None:
        """The layers of ``features`` up to the tapped one become one compiled module, which is
        tapped in its place; the rest, and the loss of the map, stay eager."""
        features = self.model.features
        last = int(self.layer.rpartition(".")[2])
        trunk: Any = torch.compile(features[: last + 1], dynamic=False)
        rest = list(features.named_children())[last + 1 :]
        self.model.features = nn.Sequential(OrderedDict([("trunk", trunk), *rest]))
        self.layer = "features.trunk"
        self._tap = fastcam.ActivationTap(self.model, self.layer, self.gradient_at)

    def _bce(self, logits: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, self._labels)

    def plain(self) -> Tensor:
        return self._bce(self.model(self._images))

    def fused(self, targets: int = 1, head: Head = "auto") -> Tensor:
        chosen = _chosen(targets)
        with self._tap as tap:
            logits = self.model(self._images)
            guide = self._criteria[head](logits, tap, self._chosen_regions(targets), targets=chosen)
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


def losses_of(tuning: FineTuning, loop: str) -> dict[str, Loss]:
    losses: dict[str, Loss] = {
        PLAIN: tuning.plain,
        EXACT: tuning.fused,
        DROPOUT: partial(tuning.fused, head="mean_dropout"),
    }
    if loop == EAGER:
        losses["guided, plain autograd"] = tuning.eager
    return losses


def captured(step: Step) -> Step:
    """The step as a CUDA graph: each call replays it on the same tensors."""
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(here)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(side):
            for _ in range(3):  # the optimizer makes its state
                step()
            with torch.cuda.graph(graph, stream=side):
                step()
    except Exception as error:
        # A capture that failed leaves the random generator in it.
        with contextlib.suppress(Exception):
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(torch.Generator("cuda").graphsafe_get_state())
        # The end of a capture that was broken off raises, too; what broke it off tells more.
        raise error.__context__ or error from None
    here.wait_stream(side)
    return graph.replay


@dataclass(frozen=True)
class StepRow:
    """A step with one loss in one kind of loop; where it raises, what it said."""

    step: str
    batch: int
    loop: str
    loss: str
    wall: Timing | None = None  # by the host's clock, Python included
    gpu: Timing | None = None  # the GPU's time alone
    peak_bytes: int | None = None
    error: str | None = None

    @property
    def gate(self) -> float | None:
        return GATES.get((self.batch, self.loss)) if self.loop == EAGER else None


def measure_step(
    loop: str, batch: int, timer: Timer, clock: Clock, device: str, size: int = 224
) -> list[StepRow]:
    """AlexNet's step with each loss, by the clock and by the timer."""
    tuning = FineTuning("alexnet", batch, size, device)
    if loop == COMPILED:
        tuning.compile_trunk()
    steps: dict[str, Step] = {}
    errors: dict[str, str] = {}
    losses = losses_of(tuning, loop)
    for name, loss in losses.items():
        step = tuning.step(loss)
        try:
            step = captured(step) if loop == GRAPH else step
            step()
            steps[name] = step
        except Exception as error:
            errors[name] = first_line(error)
    walls = clock(steps)
    made = []
    for name in losses:
        row = partial(StepRow, tuning.name, batch, loop, name)
        if name in errors:
            made.append(row(error=errors[name]))
            continue
        peak = None if loop == GRAPH else timer.peak_bytes(steps[name])  # a graph holds its own
        made.append(row(walls[name], timer(steps[name]), peak))
    return made


def step_tables(rows: Sequence[StepRow]) -> str:
    """A table for each batch; "against plain" is within the same kind of loop."""
    return "\n".join(
        _table(name, [row for row in rows if row.step == name])
        for name in dict.fromkeys(row.step for row in rows)
    )


def _table(name: str, rows: Sequence[StepRow]) -> str:
    plain = {row.loop: row for row in rows if row.loss == PLAIN}
    columns = (
        *(name, "wall clock, ms (p20 to p80)", "against plain", "gate"),
        *("GPU alone, ms (p20 to p80)", "against plain", "peak MiB"),
    )
    cells = []
    for row in sorted(rows, key=lambda row: LOOPS.index(row.loop)):
        label = f"{row.loop}: {row.loss}"
        if row.error is not None:
            cells.append([label, row.error, *[""] * 5])
            continue
        base = plain[row.loop]
        wall, gpu = _more(row.wall, base.wall), _more(row.gpu, base.gpu)
        peak = row.peak_bytes
        cells.append(
            [
                *(label, _milliseconds(row.wall), _percent(wall), _verdict(row.gate, wall)),
                *(_milliseconds(row.gpu), _percent(gpu)),
                "" if peak is None else f"{peak / 2**20:.0f}",
            ]
        )
    return markdown(columns, cells)


def _more(time: Timing | None, plain: Timing | None) -> float | None:
    return None if time is None or plain is None else time.median / plain.median - 1


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.0f} %"


def _verdict(gate: float | None, share: float | None) -> str:
    if gate is None or share is None:
        return ""
    return f"≤ {100 * gate:+.0f} %: {met(share <= gate)}"


def _milliseconds(t: Timing | None) -> str:
    return "" if t is None else f"{1e3 * t.median:.2f} ({1e3 * t.p20:.2f} to {1e3 * t.p80:.2f})"
