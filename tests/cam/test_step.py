"""What a tap remembers from step to step, and that a step asks the device for nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import gradients_of, grids, small_cnn
from random_heads import negated, with_tensor_hook
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastcam.cam import products
from fastcam.cam.hook_registry import handles_made
from fastcam.cam.maps import grad_cam_maps
from fastcam.cam.tap import ActivationTap
from fastcam.losses.balance import Balance
from fastcam.losses.cam import IoUCamLoss
from fastcam.ops import checks

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
REGIONS = grids(4, 6, 6)


class Net(nn.Module):
    """A function may stand in front of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_cnn().double()
        self.between = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return self.net[11](self.between(self.net[:11](x)))


def loss_and_gradients(net: nn.Module, tap: ActivationTap, head: str) -> Any:
    torch.manual_seed(0)
    with tap:
        logits = net(X)
        loss = IoUCamLoss(sharpness=2.0, head=head)(logits, tap, REGIONS, 1)
        watched = tap.trace.watched
    return watched, (loss.detach(), gradients_of(loss, net))


def settled() -> tuple[Net, ActivationTap]:
    net = Net()
    tap = ActivationTap(net, "net.4", "net.5")
    assert [loss_and_gradients(net, tap, "auto")[0] for _ in range(3)] == [True, False, False]
    return net, tap


def assert_as_new(net: Net, tap: ActivationTap, watched: bool, head: str = "closed") -> None:
    """What a tap that has seen the network before finds is what autograd does."""
    was, got = loss_and_gradients(net, tap, head)
    assert was is watched
    new = ActivationTap(net, "net.4", "net.5")
    wanted = loss_and_gradients(net, new, "autograd" if head == "closed" else head)[1]
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("head", ["closed", "mean_dropout"])
def test_a_head_that_was_recognised_is_known_again(head):
    net, tap = settled()
    assert_as_new(net, tap, False, head)
    with torch.no_grad():
        net.net[8].weight.mul_(-0.5)
    assert_as_new(net, tap, False, head)
    net.net[8] = nn.Linear(72, 16).double()
    assert_as_new(net, tap, True, head)  # another module: it is looked at anew
    assert_as_new(net, tap, False, head)


def test_training_and_evaluation_take_turns():
    net, tap = settled()
    for watched in (True, False, False):
        assert_as_new(net.eval(), tap, watched)
        assert_as_new(net.train(), tap, False)


@pytest.mark.parametrize("head", ["closed", "mean_dropout"])
def test_modules_that_come_or_change(head):
    net, tap = settled()
    net.net[9] = nn.Sequential(nn.Linear(16, 16).double(), nn.ReLU())
    for watched in (True, False):
        assert_as_new(net, tap, watched, head)
    net.net[9].append(nn.Dropout(0.2))
    assert loss_and_gradients(net, tap, "auto")[0] is False  # nobody saw it come: by autograd
    for _ in range(2):  # and watched from now on
        assert_as_new(net, tap, True, head)


@pytest.mark.parametrize("between", [lambda x: x * 2, with_tensor_hook])
def test_code_that_comes_later(between):
    net, tap = settled()
    net.between = between
    assert_as_new(net, tap, False)
    with pytest.raises(ValueError, match="closed form for 'closed', but"):
        assert_as_new(net, tap, True)
    assert_as_new(net, tap, True, "auto")
    net.between = lambda x: x
    assert_as_new(net, tap, True)


def test_a_backward_hook_of_a_module_that_comes_later():
    for place in (6, 11):
        net, tap = settled()
        net.net[place].register_full_backward_hook(lambda m, into, out: (negated(into[0]),))
        assert_as_new(net, tap, False, "auto")
        assert_as_new(net, tap, True, "auto")


def test_a_weight_that_changes_after_the_forward():
    net, tap = settled()
    with tap:
        logits = net(X)
        weight = net.net[8].weight
        weight.data = 3 * weight.data  # what the forward used is still there
        loss = IoUCamLoss(sharpness=2.0)(logits, tap, REGIONS, 1)
        wanted = IoUCamLoss(sharpness=2.0, head="autograd")(logits, tap, REGIONS, 1)
        torch.testing.assert_close(loss, wanted)
    with tap:
        logits = net(X)
        torch.nn.init.zeros_(net.net[8].weight)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            IoUCamLoss()(logits, tap, REGIONS, 1)


def test_a_square_weight_that_is_transposed_after_the_forward():
    torch.manual_seed(0)
    head = nn.Linear(288, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 5)
    net = nn.Sequential(*small_cnn()[:5], nn.Flatten(), *head).double()
    for _ in range(2):
        with ActivationTap(net, "4") as tap:
            logits = net(X)
            wanted = grad_cam_maps(logits, tap, 1, head="autograd", normalize=False)
            net[8].weight.data = net[8].weight.data.t()  # the same memory
            maps = grad_cam_maps(logits, tap, 1, head="closed", normalize=False)
        torch.testing.assert_close(maps, wanted)
    assert wanted.any()


def test_several_losses_of_a_forward_and_one_without_a_graph():
    net, tap = settled()
    with tap:
        logits = net(X)
        for target in range(3):
            IoUCamLoss(head="closed")(logits, tap, REGIONS, target)
            assert not tap.trace.watched
    with tap, torch.no_grad():
        maps = grad_cam_maps(net.eval()(X), tap, head="closed")
    with ActivationTap(net, "net.4") as new, torch.no_grad():
        torch.testing.assert_close(maps, grad_cam_maps(net(X), new))
    assert_as_new(net.train(), tap, False)


def test_torch_numbers_every_kind_of_hook():
    """What a tap's silence rests on."""
    x = torch.ones(2, requires_grad=True)
    y, layer = x * 2, nn.Linear(2, 2)
    for register in (
        x.register_hook, y.register_hook, y.grad_fn.register_hook, y.grad_fn.register_prehook,
        x.register_post_accumulate_grad_hook, layer.register_forward_hook,
        layer.register_full_backward_hook,
    ):  # fmt: skip
        before = handles_made()
        register(lambda *_: None)
        assert handles_made() == before + 1


# ---- what a step asks of the device --------------------------------------------------------------


class NoValueIsRead(TorchDispatchMode):
    """Fails where the host would wait for a value of a tensor, or a size that depends on one."""

    READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        assert name not in self.READS and not by_mask, f"{op} reads values"
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"head": "mean_dropout"}, {"weight_grad": "detach"}])
@pytest.mark.parametrize("targets", [1, None])
def test_no_value_of_a_tensor_is_read_in_a_step(options, targets, monkeypatch):
    """As on a GPU: what a CPU looks at to leave products out is for large networks."""
    monkeypatch.setattr(products, "LARGE", 1 << 22)
    monkeypatch.setattr(checks, "_values_of_signs", lambda _: None)  # a GPU asserts them itself
    net = small_cnn().double()
    tap, balance = ActivationTap(net, "4", "5"), Balance(every=1)
    criterion = IoUCamLoss(max_pair_pull=3.0, **options)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    count = 5 if targets is None else 1
    given = {
        "cell_weights": torch.ones(6, 6), "where": torch.rand(4, count) > 0.3,
        "signs": torch.ones(4, count),
    }  # fmt: skip

    def step() -> None:
        optimizer.zero_grad()
        with tap:
            logits = net(X)
            loss = criterion(logits, tap, grids(4, count, 6, 6), targets, **given)
            total = balance(logits.square().mean(), loss, tap)
        total.backward()
        optimizer.step()

    step()  # a head that is met for the first time is compared with autograd
    with NoValueIsRead():
        step()
    with pytest.raises(AssertionError, match="reads values"), NoValueIsRead():
        bool(torch.ones(()))
