"""A whole guided step, tap to optimizer: CUDA graphs, streams, compilers (``--device cuda``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastcam import ActivationTap, Balance, IoUCamLoss
from fastcam.cam import weight_gradients

pytestmark = pytest.mark.cuda

BATCH, SIZE, CLASSES = 8, 96, 5


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are compared with each other: the convolutions must be the same each time."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


class Training:
    """AlexNet on small images, in float32 without TF32, whose batch lies in fixed memory."""

    def __init__(
        self, device: torch.device, every: int | None = 1, eval: bool = True, **options: Any
    ) -> None:
        import torchvision

        torch.manual_seed(0)
        self.model = torchvision.models.alexnet(num_classes=CLASSES).to(device).train(not eval)
        self.tap = ActivationTap(self.model, "features.11", gradient_at="features.12")
        self.criterion = IoUCamLoss(sharpness=2.0, max_pair_pull=10.0, **options)
        self.balance = Balance(every=every)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3, momentum=0.9)
        self.images = torch.empty(BATCH, 3, SIZE, SIZE, device=device)
        self.labels = torch.empty(BATCH, CLASSES, device=device)
        self.regions = torch.empty(BATCH, 5, 5, device=device)
        self.fill(0)

    def fill(self, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.images.copy_(torch.randn(self.images.shape, generator=rng))
        self.labels.copy_((torch.rand(self.labels.shape, generator=rng) > 0.4).float())
        self.regions.copy_(torch.rand(self.regions.shape, generator=rng))

    def loss(self) -> Tensor:
        with self.tap as tap:
            logits = self.model(self.images)
            on = self.labels[:, 2] > 0
            guidance = self.criterion(logits, tap, self.regions, targets=2, where=on)
            label = nn.functional.binary_cross_entropy_with_logits(logits, self.labels)
            return self.balance(label, guidance, tap)

    def step(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def captured(self) -> Callable[[], None]:
        """After three eager steps; those of ``capture`` leave no trace in the parameters."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay


@pytest.fixture(autouse=True)
def _float32() -> Any:
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags


OPTIONS: list[dict[str, Any]] = [
    {}, {"head": "mean_dropout"}, {"head": "closed"}, {"weight_grad": "detach"}
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_guided_step_in_a_cuda_graph(options, device):
    eager, graphed = Training(device, **options), Training(device, **options)
    replay = graphed.captured()
    for _ in range(3):
        eager.step()
    for seed in range(1, 6):
        for training in (eager, graphed):
            training.fill(seed)
        eager.step()
        replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(graphed.balance.ratio, eager.balance.ratio, rtol=1e-3, atol=0)
    start = dict(Training(device, **options).model.named_parameters())
    for name, wanted in eager.model.named_parameters():
        got = graphed.model.get_parameter(name)
        moved = (wanted - start[name]).norm()
        assert moved > 0
        assert (got - wanted).norm() < 1e-3 * moved, name


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_with_dropout_in_a_cuda_graph(options, device):
    training = Training(device, eval=False, **options)
    replay = training.captured()
    before = [p.detach().clone() for p in training.model.parameters()]
    for seed in range(3):
        training.fill(seed)
        replay()
    torch.cuda.synchronize()
    for parameter, was in zip(training.model.parameters(), before, strict=True):
        assert parameter.isfinite().all()
        assert not torch.equal(parameter, was)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_nothing_in_a_step_waits_for_the_device(options, device):
    training = Training(device, eval=False, **options)
    training.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("head", ["auto", "mean_dropout"])
@pytest.mark.parametrize("other_stream", [False, True])
def test_the_second_gradient_of_a_weight_is_added_in_place(head, other_stream, device, monkeypatch):
    """Also where the loss was computed on another stream than the forward."""
    left: list[bool] = []
    defer = weight_gradients.FusedAccumulation.defer

    def counted(self: Any, contribution: Any) -> bool:
        left.append(defer(self, contribution))
        return left[-1]

    results = []
    for fused in (True, False):
        monkeypatch.setattr(
            weight_gradients.FusedAccumulation, "defer", counted if fused else lambda *_: False
        )
        training = Training(device, every=None, head=head)
        side = torch.cuda.Stream() if other_stream else torch.cuda.current_stream()
        with training.tap as tap:
            logits = training.model(training.images)
            label = logits.square().mean()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                guidance = training.criterion(logits, tap, training.regions, targets=2)
            torch.cuda.current_stream().wait_stream(side)
        (label + guidance).backward()
        torch.cuda.synchronize()
        results.append([p.grad for p in training.model.parameters()])
    assert left == [True, True], "of the first two linear layers"
    for got, wanted in zip(*results, strict=True):
        assert (got - wanted).norm() <= 1e-5 * wanted.norm()


def test_a_compiled_trunk(device):
    eager, compiled = Training(device), Training(device)
    net = compiled.model
    net.features = nn.Sequential(net.features[:12], net.features[12:])
    net.features[0] = torch.compile(net.features[0])
    compiled.tap = ActivationTap(net, "features.0", gradient_at="features.1")
    losses = [training.loss() for training in (eager, compiled)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)
    for loss in losses:
        loss.backward()
    for one, other in zip(eager.model.parameters(), net.parameters(), strict=True):
        assert (one.grad - other.grad).norm() < 1e-3 * one.grad.norm()
