"""``grad_cam_maps``: plain Grad-CAM's maps, and the gradients of any loss of them."""

from __future__ import annotations

import contextlib

import pytest
import torch
from networks import (
    LAYERS,
    assert_same_gradients,
    gradients_of,
    images,
    network,
    plain_gradients,
    small_cnn,
)  # fmt: skip
from torch import Tensor, nn

import fastcam
from fastcam import functional, reference
from fastcam.cam.maps import grad_cam_maps
from fastcam.cam.tap import ActivationTap

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3))
TARGETS = [2, [1, 4], None, torch.tensor([[0, 1], [2, 3], [4, 0], [1, 1]])]
WITHOUT_A_GRAPH = [torch.no_grad, torch.inference_mode]


def columns(targets, batch: int = 4, classes: int = 5) -> Tensor:
    """[N,T]."""
    index = torch.arange(classes) if targets is None else torch.as_tensor(targets)
    return index if index.dim() == 2 else index.reshape(1, -1).expand(batch, -1)


def small_resnet() -> nn.Module:
    return nn.Sequential(*small_cnn()[:5], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def with_gelu() -> nn.Module:
    return nn.Sequential(*small_cnn()[:8], nn.Linear(72, 9), nn.GELU(), nn.Linear(9, 5))


def custom(maps: Tensor) -> Tensor:
    """A loss that depends on every cell of every map."""
    weights = torch.linspace(-1, 2, maps.numel(), dtype=maps.dtype).view_as(maps)
    return (weights * maps.sin()).sum() + maps.square().mean()


HEADS = {
    "alexnet-like": (small_cnn, "5", "closed"),
    "resnet-like": (small_resnet, None, "closed"),
    "autograd": (with_gelu, "5", "auto"),
    "asked for autograd": (small_cnn, "5", "autograd"),
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("targets", TARGETS, ids=["one", "T", "all", "each"])
@pytest.mark.parametrize("margins", [False, True], ids=["logits", "margins"])
def test_any_loss_of_the_maps_has_plain_grad_cam_s_gradients(kind, targets, margins):
    make, gradient_at, head = HEADS[kind]
    net = make().double().train()
    tap = ActivationTap(net, "4", gradient_at)
    scores = functional.margins if margins else torch.Tensor.clone
    for normalize in (True, False, True):  # with the same tap: at first it watches the modules
        torch.manual_seed(0)
        with tap:
            logits = net(X.double())
            wanted = scores(logits)
            d = plain_gradients(wanted, tap.activations, columns(targets))
            maps = reference.grad_cam(tap.activations, d, normalize)
            expected = gradients_of(custom(maps), net)

            got = grad_cam_maps(
                functional.margins(logits) if margins else logits,
                tap, targets, head=head, normalize=normalize, create_graph=True,
            )  # fmt: skip
            torch.testing.assert_close(got, maps)
            assert_same_gradients(gradients_of(custom(got), net), expected)
    assert sum(bool(g.any()) for g in expected.values()) > 4


@pytest.mark.parametrize("name", LAYERS)
def test_margins_of_torchvision_s_networks_keep_their_closed_form(name):
    net = network(name)
    with ActivationTap(net, *LAYERS[name]) as tap:
        logits = net(images(name))
        maps = [
            grad_cam_maps(functional.margins(logits), tap, [1, 3], head=head, create_graph=True)
            for head in ("closed", "autograd")
        ]
        torch.testing.assert_close(*maps)
        assert_same_gradients(*(gradients_of(custom(each), net) for each in maps), tolerance=1e-8)


def test_margins_of_16_bits_keep_their_closed_form():
    net = small_cnn().bfloat16().eval()
    with ActivationTap(net, "4", "5") as tap:
        scores = functional.margins(net(X.bfloat16()))
        closed, wanted = (
            grad_cam_maps(scores, tap, [1, 3], head=head) for head in ("closed", "autograd")
        )
    torch.testing.assert_close(closed, wanted, rtol=0.05, atol=0.05)


def test_pairs_that_do_not_count_are_left_out_of_the_margins_closed_form(monkeypatch):
    monkeypatch.setattr("fastcam.cam.products.LARGE", 0)
    net = small_cnn().double()
    regions = torch.rand(4, 2, 6, 6, dtype=torch.float64)
    where = torch.tensor([[True, False], [False, False], [True, True], [False, True]])
    with ActivationTap(net, "4", "5") as tap:
        scores = functional.margins(net(X.double()))
        losses = [
            fastcam.IoUCamLoss(sharpness=2.0, head=head)(scores, tap, regions, [1, 3], where=where)
            for head in ("closed", "autograd")
        ]
        torch.testing.assert_close(*losses)
        assert_same_gradients(*(gradients_of(loss, net) for loss in losses))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[:, :3],
        lambda m: 2 * m,
        lambda m: m.mul_(2),
        lambda m: (m.register_hook(lambda g: 2 * g), m)[1],
    ],
    ids=["a part", "scaled", "in place", "hooked"],
)
def test_what_is_made_of_margins_goes_by_autograd(change):
    net = small_cnn().double()
    with ActivationTap(net, "4") as tap:
        logits = net(X.double())
        grad_cam_maps(functional.margins(logits), tap, 1, head="closed")  # it is compared once
        scores = change(functional.margins(logits))
        with pytest.raises(ValueError, match="closed form for 'closed', but"):
            grad_cam_maps(scores, tap, 1, head="closed")
        d = plain_gradients(scores, tap.activations, columns(1))
        wanted = reference.grad_cam(tap.activations, d, False).detach()
        torch.testing.assert_close(grad_cam_maps(scores, tap, 1, normalize=False), wanted)


def test_margins_stay_those_of_logits_that_change_behind_the_graph_s_back():
    net = small_cnn().double()
    with ActivationTap(net, "4") as tap:
        logits = net(X.double())
        scores = functional.margins(logits)
        wanted = grad_cam_maps(scores, tap, 1, normalize=False)
        with torch.no_grad():
            logits.mul_(2)
        torch.testing.assert_close(grad_cam_maps(scores, tap, 1, normalize=False), wanted)
    assert wanted.any()


def test_margins_computed_without_a_graph_are_refused():
    net = small_cnn()
    with ActivationTap(net, "4") as tap:
        logits = net(X)
        with torch.no_grad():
            scores = functional.margins(logits)
        with pytest.raises(ValueError, match="logits: expected the model's output with its graph"):
            grad_cam_maps(scores, tap, 1)


@pytest.mark.parametrize("context", WITHOUT_A_GRAPH)
def test_margins_that_were_changed_are_no_longer_those_of_the_logits(context):
    """Without a graph there is no other way to their maps."""
    net = small_cnn().eval()
    with context(), ActivationTap(net, "4") as tap:
        logits = net(X)
        for changed in ("margins", "logits"):
            scores = functional.margins(logits)
            assert grad_cam_maps(scores, tap, 1).any()
            (scores if changed == "margins" else logits).mul_(-2)
            with pytest.raises(ValueError, match="without a graph"):
                grad_cam_maps(scores, tap, 1)


def test_without_create_graph_nothing_is_kept():
    net = small_cnn().double()
    with ActivationTap(net, "4", "5") as tap:
        logits = net(X.double())
        for scores in (logits, functional.margins(logits)):
            for head in ("auto", "autograd"):
                kept = grad_cam_maps(scores, tap, [0, 3], head=head, create_graph=True)
                maps = grad_cam_maps(scores, tap, [0, 3], head=head)
                assert kept.requires_grad
                assert not maps.requires_grad
                assert torch.equal(maps, kept.detach())
                with torch.no_grad():  # where create_graph asks for nothing
                    maps = grad_cam_maps(scores, tap, [0, 3], head=head, create_graph=True)
                assert not maps.requires_grad
    assert all(p.grad is None for p in net.parameters())


def test_three_lines_of_plain_pytorch_move_the_map():
    net = small_cnn().double().eval()
    outside = torch.ones(6, 6, dtype=torch.float64)
    outside[2:4, 2:4] = 0
    tap = ActivationTap(net, "4", "5")
    optimizer = torch.optim.SGD(net.parameters(), 0.3)
    losses = []
    for _ in range(20):
        with tap:
            maps = grad_cam_maps(functional.margins(net(X.double())), tap, 1, create_graph=True)
            loss = (maps * outside).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    "targets", [2, [1, 4], None, torch.tensor([[0, 1], [2, 3], [4, 0], [1, 1]])]
)
def test_maps(targets):
    net = small_cnn().double()
    x = X.double()
    with ActivationTap(net, "4", "5") as tap:
        logits = net(x)
        index = torch.arange(5) if targets is None else torch.as_tensor(targets)
        index = index if index.dim() == 2 else index.reshape(1, -1).expand(4, -1)
        gradients = plain_gradients(logits, tap.activations, index)
        for normalize in (True, False):
            wanted = functional.grad_cam(tap.activations, gradients, normalize).detach()
            for head in ("auto", "autograd"):
                maps = grad_cam_maps(logits, tap, targets, head=head, normalize=normalize)
                assert not maps.requires_grad
                torch.testing.assert_close(maps, wanted)
        maps = grad_cam_maps(logits, tap.activations, targets)
        torch.testing.assert_close(maps, grad_cam_maps(logits, tap, targets))


@pytest.mark.parametrize("mode", WITHOUT_A_GRAPH)
def test_maps_without_a_graph(mode):
    net = small_cnn().eval()
    with ActivationTap(net, "4", "5") as tap:
        wanted = grad_cam_maps(net(X), tap, head="autograd")
        with mode():
            logits = net(X)
            torch.testing.assert_close(grad_cam_maps(logits, tap), wanted)
            maps = grad_cam_maps(logits, tap, create_graph=True)  # gradients are off
            torch.testing.assert_close(maps, wanted)
            assert not maps.requires_grad
            with pytest.raises(ValueError, match=r"needs no graph, but .* '11' \(Linear\)"):
                grad_cam_maps(logits * 2, tap)
        with pytest.raises(ValueError, match="without a graph"):
            grad_cam_maps(logits, tap, head="autograd")
        net.train()
        with mode():  # what the first dropout kept where its input was zero left no trace
            logits = net(X)
            with pytest.raises(
                ValueError, match=r"what '7' \(Dropout\) kept can no longer be seen"
            ):
                grad_cam_maps(logits, tap, head="closed")


@pytest.mark.parametrize("mode", WITHOUT_A_GRAPH)
def test_a_dropout_behind_a_relu_is_seen_without_a_graph(mode):
    layers = nn.Linear(100, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 5)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), *layers)
    maps = []
    for context, head in ((contextlib.nullcontext, "autograd"), (mode, "closed")):
        torch.manual_seed(5)
        with ActivationTap(net, "0") as tap, context():
            maps.append(grad_cam_maps(net(X), tap, head=head, normalize=False))
    torch.testing.assert_close(maps[1], maps[0])
    assert maps[0].any()


@pytest.mark.parametrize("mode", WITHOUT_A_GRAPH)
def test_what_is_no_closed_form_without_a_graph(mode):
    def refused(pool=None, before=lambda net: None, change=lambda net: None):
        kept = []
        layers = nn.Linear(100, 6), nn.ReLU(), nn.Linear(6, 5)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), pool or nn.MaxPool2d(2), nn.Flatten(), *layers)
        net[4].register_forward_hook(lambda module, args, output: kept.append(output))
        net.kept = kept
        before(net)
        with ActivationTap(net, "0") as tap, mode():
            logits = net(X)
            change(net)
            with pytest.raises(ValueError) as error:
                grad_cam_maps(logits, tap)
        return str(error.value)

    assert "'1' (AvgPool2d), which is not a layer" in refused(nn.AvgPool2d(2, divisor_override=3))
    assert "'1' (AvgPool2d), which is not" in refused(nn.AvgPool2d(3, stride=2, padding=1))
    patched = refused(before=lambda net: setattr(net[4], "forward", lambda x: x.abs()))
    assert "'4' (ReLU), which is not a layer" in patched
    change = refused(change=lambda net: net[5].weight.mul_(2))
    assert "the weight of '5' (Linear) changed after the forward" in change
    change = refused(change=lambda net: net.kept[0].fill_(1))
    assert "what '4' (ReLU) kept can no longer be seen" in change


@pytest.mark.parametrize("mode", WITHOUT_A_GRAPH)
@pytest.mark.parametrize("name", LAYERS)
def test_maps_of_torchvision_s_networks_without_a_graph(name, mode):
    """Whose modules overwrite in place."""
    net, x = network(name).eval(), images(name)
    with ActivationTap(net, *LAYERS[name]) as tap:
        wanted = grad_cam_maps(net(x), tap, [1, 3], head="autograd", normalize=False)
        for _ in range(2):
            with mode():
                maps = grad_cam_maps(net(x), tap, [1, 3], normalize=False)
            torch.testing.assert_close(maps, wanted)
    assert wanted.any()


class Overwriting(nn.Module):
    """Code between its modules, by the place: "maps", "flat", "hidden" or "logits"."""

    def __init__(self, place, code):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)
        self.hidden, self.act, self.out = nn.Linear(100, 6), nn.ReLU(inplace=True), nn.Linear(6, 5)
        self.code = {place: code}

    def at(self, place, x):
        self.code.get(place, lambda y: None)(x)
        return x

    def forward(self, x):
        x = self.pool(self.at("maps", self.conv(x)))
        x = self.act(self.at("hidden", self.hidden(self.at("flat", x.flatten(1)))))
        return self.at("logits", self.out(x))


OVERWRITES = {
    "F.relu": lambda x: nn.functional.relu(x, inplace=True),
    "*=": lambda x: x.__imul__(torch.linspace(-1, 2, x.shape[-1])),
    "tanh_": lambda x: x.tanh_(),
    "of a view": lambda x: x[:, 1:].neg_(),
    "out=": lambda x: torch.abs(x, out=x),
    "moved": lambda x: x.copy_(x.flip(-1)),
}


@pytest.mark.parametrize("mode", WITHOUT_A_GRAPH)
@pytest.mark.parametrize("place", ["maps", "flat", "hidden", "logits"])
@pytest.mark.parametrize("code", OVERWRITES)
def test_code_that_overwrites_between_modules_is_seen_without_a_graph(code, place, mode):
    torch.manual_seed(0)
    with ActivationTap(Overwriting("nowhere", None), "conv") as tap, mode():
        assert grad_cam_maps(tap.model(X), tap).any()
    with ActivationTap(Overwriting(place, OVERWRITES[code]), "conv") as tap, mode():
        logits = tap.model(X)
        message = "'conv' was overwritten in place" if place == "maps" else "without a graph"
        with pytest.raises(ValueError, match=message):
            grad_cam_maps(logits, tap)


@pytest.mark.parametrize("mode", WITHOUT_A_GRAPH)
@pytest.mark.parametrize("what", ["activations", "gradient_point", "logits"])
def test_what_is_overwritten_after_a_forward_without_a_graph(what, mode):
    net = small_cnn().eval()
    with ActivationTap(net, "4", "5") as tap, mode():
        logits = net(X)
        (logits if what == "logits" else getattr(tap, what)).mul_(-1)
        with pytest.raises(ValueError, match="overwritten in place|without a graph"):
            grad_cam_maps(logits, tap)


def test_a_forward_in_inference_mode_returns_what_it_does_without_a_tap():
    for name in LAYERS:
        net, x = network(name).eval(), images(name)
        with torch.inference_mode():
            wanted = net(x)
            with ActivationTap(net, *LAYERS[name]):
                assert torch.equal(net(x), wanted)


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        ([[1], [2]], r"\[4,T\] \(N of logits\), got shape \[2, 1\]"),
        (9, "got 9"),
        ([1, 9], "got 9"),
        ([True, False], "expected integer indices, got bool"),
    ],
)
def test_maps_with_bad_targets(targets, match):
    net = small_cnn()
    with ActivationTap(net, "4") as tap:
        logits = net(X)
        with pytest.raises((TypeError, ValueError), match=match):
            grad_cam_maps(logits, tap, targets)


def test_an_empty_batch_and_an_empty_list_of_targets():
    net = small_cnn().eval()
    with ActivationTap(net, "4", "5") as tap:
        for head in ("auto", "autograd"):
            scores = functional.margins(net(X[:0]))
            maps = grad_cam_maps(scores, tap, [0, 3], head=head, create_graph=True)
            assert maps.shape == (0, 2, 6, 6)
        assert grad_cam_maps(net(X), tap, []).shape == (4, 0, 6, 6)


def test_it_is_public():
    assert fastcam.grad_cam_maps is grad_cam_maps


def test_the_former_name_still_works() -> None:
    from fastcam.heads import class_activation_maps

    assert class_activation_maps is fastcam.grad_cam_maps
