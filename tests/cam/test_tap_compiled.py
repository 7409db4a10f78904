"""The tap with activation checkpointing and ``torch.compile``; what cannot work says why."""

from __future__ import annotations

import pytest
import torch
from networks import grids, small_cnn
from torch import nn
from torch._functorch import config as functorch
from torch.utils.checkpoint import checkpoint

from fastcam.cam import weight_gradients
from fastcam.cam.head_graph import has_compiled_nodes
from fastcam.cam.maps import grad_cam_maps
from fastcam.cam.tap import ActivationTap
from fastcam.losses.cam import IoUCamLoss

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3))


class Checkpointed(nn.Module):
    """A trunk (and, if asked, a head) that is computed again in the backward."""

    def __init__(self, reentrant: bool = False, head: bool = False):
        super().__init__()
        net = small_cnn()
        self.trunk, self.head = net[:5], net[5:]
        self.reentrant, self.checkpoint_head = reentrant, head

    def forward(self, x):
        maps = checkpoint(self.trunk, x, use_reentrant=self.reentrant)
        if self.checkpoint_head:
            return checkpoint(self.head, maps, use_reentrant=self.reentrant)
        return self.head(maps)


@pytest.mark.parametrize("layer", ["trunk", "trunk.4"])
@pytest.mark.parametrize("head", ["autograd", "closed", "auto"])
@pytest.mark.parametrize("checkpoint_head", [False, True])
def test_activation_checkpointing(layer, head, checkpoint_head):
    if checkpoint_head and head == "closed":  # what it saved would have to be computed again
        net = Checkpointed(head=True)
        with (
            ActivationTap(net, layer) as tap,
            pytest.raises(ValueError, match=r"what 'head.11' \(Linear\) saved is packed away"),
        ):
            IoUCamLoss(head=head)(net(X), tap, grids(4, 2, 6, 6), [1, 2])
        return
    results = []
    for net in (Checkpointed(head=checkpoint_head), Checkpointed(head=checkpoint_head)):
        if results:
            net.forward = lambda x, net=net: net.head(net.trunk(x))  # the same without checkpoints
        torch.manual_seed(0)
        with ActivationTap(net, layer) as tap:
            logits = net(X)
            loss = IoUCamLoss(head=head)(logits, tap, grids(4, 2, 6, 6), [1, 2])
        (logits.square().mean() + loss).backward()
        results.append((loss.detach(), [p.grad for p in net.parameters()]))
    (loss, grads), (wanted, wanted_grads) = results
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(grads, wanted_grads)


def test_recomputation_in_the_backward_is_no_forward():
    net = Checkpointed(head=True)
    with ActivationTap(net, "trunk.4", "head.5") as tap:
        logits = net(X)
        maps, calls = tap.activations, len(tap.trace.calls)
        (logits.sum() + IoUCamLoss(head="autograd")(logits, tap, grids(4, 6, 6), 1)).backward()
        assert tap.activations is maps
        assert len(tap.trace.calls) == calls


def test_reentrant_checkpoint_of_the_layer_says_why_not():
    net = Checkpointed(reentrant=True)
    with ActivationTap(net, "trunk.4") as tap:
        logits = net(X.clone().requires_grad_())
        with pytest.raises(ValueError, match="use_reentrant=True"):
            IoUCamLoss()(logits, tap, grids(4, 6, 6), 1)
    with ActivationTap(net.head, "5") as tap:  # behind the checkpoint all is as usual
        logits = net(X.clone().requires_grad_())
        IoUCamLoss()(logits, tap, grids(4, 3, 3), 1).backward()


@pytest.mark.parametrize(
    "backend",
    ["eager", "aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.long])],
)
def test_compiled_trunk_with_an_eager_head(backend):
    def model():
        net = small_cnn()
        return nn.Sequential(net[:5], net[5:])

    results = []
    for compiled in (True, False):
        net = model()
        if compiled:
            net[0] = torch.compile(net[0], backend=backend)
        for head in ("autograd", "closed"):
            torch.manual_seed(0)
            net.zero_grad()
            with ActivationTap(net, "0", "1.5") as tap:
                logits = net(X)
                loss = IoUCamLoss(head=head)(logits, tap, grids(4, 2, 6, 6), [1, 2])
            (logits.square().mean() + loss).backward()
            results.append([p.grad for p in net.parameters()])
    for got in results[:-1]:
        torch.testing.assert_close(got, results[-1], rtol=1e-4, atol=1e-6)


class Residual(nn.Module):
    """As in a vision transformer, the head sees the trunk also past the tapped norm."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.Sigmoid())
        self.norm, self.mix = nn.GroupNorm(1, 6), nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.trunk(x)
        return self.head((x + self.mix(self.norm(x)).sigmoid()).mean((2, 3)))


def test_a_compiled_trunk_with_a_way_around_the_layer():
    torch.manual_seed(0)
    net = Residual().double()
    found = []
    for compiled in (False, True):
        if compiled:
            net.trunk = torch.compile(net.trunk, backend="aot_eager")
        net.zero_grad()
        with ActivationTap(net, "norm") as tap:
            logits = net(X.double())
            loss = IoUCamLoss()(logits, tap, grids(4, 5, 5), 1)
        loss.backward()
        found.append([p.grad for p in net.parameters() if p.grad is not None])
    assert any(grad.any() for grad in found[0])
    torch.testing.assert_close(found[1], found[0])


def test_layers_inside_a_compiled_region_say_why_not():
    net = nn.Sequential(small_cnn()[:5], small_cnn()[5:])
    whole = torch.compile(net, backend="eager")
    with pytest.raises(ValueError, match="a model compiled as a whole: its output cannot be seen"):
        ActivationTap(whole, "0.4")
    with ActivationTap(net, "0.4") as tap:  # the same, asked from the inside
        logits = whole(X)
        with pytest.raises(ValueError, match=r"torch.compile'd region"):
            IoUCamLoss()(logits, tap, grids(4, 6, 6), 1)

    def step(x):
        with ActivationTap(net, "0.4") as tap:
            return IoUCamLoss()(net(x), tap, grids(4, 6, 6), 1)

    step(X)
    with pytest.raises(ValueError, match=r"torch.compile'd region"):
        torch.compile(step, backend="eager")(X)
    net[0] = torch.compile(net[0], backend="eager")
    with pytest.raises(ValueError, match="'0.4' lies in '0', which is compiled"):
        ActivationTap(net, "0.4")
    net[1].compile(backend="eager")
    with pytest.raises(ValueError, match="'1' was compiled in place"):
        ActivationTap(net, "1")


def test_compiled_head_says_why_not():
    net = nn.Sequential(small_cnn()[:5], small_cnn()[5:])
    net[1] = torch.compile(net[1], backend="aot_eager")
    with ActivationTap(net, "0") as tap:
        logits = net(X)
        with pytest.raises(ValueError, match="'1', between '0' and the logits, is compiled"):
            IoUCamLoss()(logits, tap, grids(4, 6, 6), 1)


@pytest.mark.parametrize("how", ["module in place", "function", "after the network"])
def test_what_is_compiled_without_a_wrapper_says_why_not(how):
    double = torch.compile(lambda x: 2 * x, backend="aot_eager")
    net = small_cnn()
    if how == "module in place":
        net[-1].compile(backend="aot_eager")
    elif how == "function":
        net[-1].forward = lambda x, forward=net[-1].forward: double(forward(x))
    with ActivationTap(net, "4") as tap:
        logits = double(net(X)) if how == "after the network" else net(X)
        if how == "module in place" and not has_compiled_nodes(logits, tap.activations):
            pytest.skip("this torch runs a module that is hooked as it stands")
        for given, layer in ((tap, "'4'"), (tap.activations, "the layer")):
            with pytest.raises(ValueError, match=f"a part, between {layer} and the .*is compiled"):
                IoUCamLoss()(logits, given, grids(4, 6, 6), 1)


@pytest.mark.parametrize("targets", [1, [1, 2]])
@pytest.mark.parametrize("what", ["loss", "maps"])
@pytest.mark.parametrize("large", [0, 1 << 16])
def test_a_compiled_loss_is_the_eager_one(what, targets, large, monkeypatch):
    """torch.compile breaks the graph where gradients are taken, and does the rest."""
    torch._dynamo.reset()
    monkeypatch.setattr(weight_gradients, "LARGE", large)
    net, regions = small_cnn().eval(), grids(4, *([2] if isinstance(targets, list) else []), 6, 6)

    def of_maps(logits, tap, regions, targets):
        maps = grad_cam_maps(logits, tap, targets, create_graph=True)
        return (maps * (regions if regions.dim() == 4 else regions[:, None])).mean()

    criterion = IoUCamLoss() if what == "loss" else of_maps
    found = []
    compiled = torch.compile(criterion, backend="aot_eager")
    for loss in (criterion, compiled, compiled):
        with ActivationTap(net, "4") as tap:
            value = loss(net(X), tap, regions, targets)
        found.append((value, torch.autograd.grad(value, list(net.parameters()), allow_unused=True)))
    torch.testing.assert_close(found[1:], [found[0]] * 2)


@functorch.patch(donated_buffer=False)  # the graph is gone through twice
def test_compiled_head_is_right_with_constant_weights():
    torch._dynamo.reset()  # what is compiled already may donate
    found = []
    for compiled in (False, True):
        net = nn.Sequential(small_cnn()[:5], small_cnn()[5:]).eval()
        if compiled:
            net[1] = torch.compile(net[1], backend="aot_eager")
        with ActivationTap(net, "0") as tap:
            logits = net(X)
            loss = IoUCamLoss(weight_grad="detach")(logits, tap, grids(4, 6, 6), 1)
        (logits.square().mean() + loss).backward()
        found.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
