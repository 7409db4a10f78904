"""Closed-form heads: equal to autograd where they are recognised, and nowhere else recognised."""

from __future__ import annotations

import pytest
import torch
import torchvision
from networks import LAYERS, gradients_of, grids, images, network, plain_gradients, small_cnn
from torch import Tensor, nn
from torch.nn import functional as tf

from fastcam import functional
from fastcam.cam.closed_form import ClosedForm
from fastcam.cam.tap import ActivationTap
from fastcam.cam.targets import resolve
from fastcam.losses.cam import IoUCamLoss

MANY = 40
X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3))


def sums_of(gradients: Tensor) -> Tensor:
    return gradients.sum((-2, -1))


def assert_closed_is_autograd(tap: ActivationTap, logits: Tensor, net: nn.Module, targets=None):
    """Same sums of D, and same gradients of a loss of D in every parameter."""
    form = ClosedForm.of(tap, logits)
    assert isinstance(form, ClosedForm), form
    chosen = resolve(targets, logits)
    index = chosen.index.expand(len(logits), -1)
    wanted = sums_of(plain_gradients(logits, tap.activations, index))
    got = form.gradients(chosen, create_graph=True)
    assert got.shape == (*wanted.shape, 1, 1)
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if logits.dtype == torch.float64 else {}
    torch.testing.assert_close(got[..., 0, 0], wanted, **tolerance)

    weights = torch.randn_like(wanted)
    grads = gradients_of((got[..., 0, 0].sin() * weights).sum(), net)
    expected = gradients_of((wanted.sin() * weights).sum(), net)
    for name, gradient in expected.items():
        torch.testing.assert_close(
            grads[name], gradient, **tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    detached = form.gradients(chosen, create_graph=False)
    assert not detached.requires_grad
    torch.testing.assert_close(detached, got.detach())
    return grads


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("targets", [7, [3, 0, 39], None, "each"])
def test_closed_form_is_autograd_on_torchvision(name, training, targets):
    net = network(name, classes=MANY, width=16).train(training)
    if targets == "each":
        targets = torch.tensor([[1, 39], [0, 0], [17, 5]])
    with ActivationTap(net, LAYERS[name][0]) as tap:
        logits = net(images(name))
        grads = assert_closed_is_autograd(tap, logits, net, targets)
    linears = [n for n, m in net.named_modules() if isinstance(m, nn.Linear)]
    assert all(grads[f"{n}.weight"].abs().sum() > 0 for n in linears)


def test_alexnet_at_full_width_in_float32():
    torch.manual_seed(0)
    net = torchvision.models.alexnet(num_classes=MANY)
    x = images("alexnet").float()
    with ActivationTap(net, "features.11", "features.12") as tap, torch.no_grad():
        net(x)
    with ActivationTap(net, "features.11", "features.12") as tap:
        logits = net(x)
        form = ClosedForm.of(tap, logits)
        assert isinstance(form, ClosedForm)
        got = form.gradients(resolve([3, 5], logits), create_graph=False)
        wanted = plain_gradients(logits, tap.activations, torch.tensor([[3, 5]] * 3))
    torch.testing.assert_close(got[..., 0, 0], sums_of(wanted))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.9, 1.0])
def test_dropout_of_any_probability(p):
    net = small_cnn().double()
    net[7].p = 0.3
    net[10].p = p
    with ActivationTap(net, "4") as tap:
        assert_closed_is_autograd(tap, net(X.double()), net)


HEADS = {
    "dropout before the ReLU": nn.Sequential(
        nn.Flatten(), nn.Linear(288, 16), nn.Dropout(0.4), nn.ReLU(), nn.Linear(16, 5)
    ),
    "in-place dropout before the ReLU": nn.Sequential(
        nn.Flatten(), nn.Linear(288, 16), nn.Dropout(0.4, inplace=True), nn.ReLU(), nn.Linear(16, 5)
    ),
    "dropout without a ReLU": nn.Sequential(
        nn.Flatten(), nn.Linear(288, 16), nn.Dropout(0.4), nn.Linear(16, 5)
    ),
    "two dropouts": nn.Sequential(
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Dropout(0.3),
        nn.Linear(288, 16),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Dropout(0.1, inplace=True),
        nn.Linear(16, 5, bias=False),
    ),
    "dropout before the flatten": nn.Sequential(
        nn.AdaptiveAvgPool2d(3), nn.Dropout(0.4), nn.Flatten(), nn.Linear(72, 5)
    ),
    "in-place dropout before the flatten": nn.Sequential(
        nn.AdaptiveAvgPool2d(3), nn.Dropout(0.4, inplace=True), nn.Flatten(), nn.Linear(72, 5)
    ),
    "one linear layer": nn.Sequential(nn.Flatten(), nn.Linear(288, 5)),
    "linear layers alone": nn.Sequential(nn.Flatten(), nn.Linear(288, 7), nn.Linear(7, 5)),
    "pooling, dropout, one layer": nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(8, 5)
    ),
    "identities": nn.Sequential(
        nn.Identity(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(6),
        nn.Flatten(),
        nn.Identity(),
        nn.Linear(288, 9),
        nn.ReLU(),
        nn.Identity(),
        nn.Linear(9, 5),
        nn.Identity(),
    ),
    "four layers": nn.Sequential(
        nn.MaxPool2d(3, 2, 1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(72, 9),
        nn.ReLU(),
        nn.Linear(9, 8),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(8, 7),
        nn.ReLU(),
        nn.Linear(7, 5),
    ),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("training", [True, False])
def test_other_heads_of_the_kind(head, training):
    net = nn.Sequential(*small_cnn()[:5], HEADS[head]).double().train(training)
    with ActivationTap(net, "4") as tap:
        assert_closed_is_autograd(tap, net(X.double()), net, [0, 3])


class Functional(nn.Module):
    """A head in which code stands between the modules."""

    def __init__(self, change=None, flatten=lambda x: x.flatten(1)):
        super().__init__()
        self.trunk, self.pool = small_cnn()[:5], nn.AdaptiveAvgPool2d(3)
        self.first, self.relu, self.last = nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 5)
        self.change, self.flatten = change or {}, flatten

    def forward(self, x):
        changed = lambda place, value: self.change.get(place, lambda v: v)(value)  # noqa: E731
        maps = changed("maps", self.trunk(x))
        flat = self.flatten(changed("pooled", self.pool(maps)))
        hidden = changed("hidden", self.first(changed("flat", flat)))
        return changed("logits", self.last(changed("relu", self.relu(hidden))))


@pytest.mark.parametrize(
    "flatten", [lambda x: x.flatten(1), lambda x: x.reshape(len(x), -1), lambda x: x.view(4, -1)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_functional_flatten_is_seen_through(flatten, layout):
    net = Functional(flatten=flatten).double().to(memory_format=layout)
    if layout == torch.channels_last:
        net.flatten = lambda x: x.flatten(1)
    with ActivationTap(net, "trunk") as tap:
        assert_closed_is_autograd(tap, net(X.double().to(memory_format=layout)), net, [0, 3])


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: x.to(memory_format=torch.channels_last).flatten(1),
        lambda x: x.contiguous().view(len(x), -1).clone(),
        lambda x: x.unsqueeze(1).flatten(1),
    ],
)
def test_tensors_that_no_module_has_seen_may_carry_a_hook(flatten):
    net = Functional(flatten=flatten).double()
    with ActivationTap(net, "trunk") as tap:
        logits = net(X.double())
        assert "code outside of modules" in ClosedForm.of(tap, logits)
        regions = grids(4, 2, 6, 6)
        auto, autograd = (
            IoUCamLoss(head=head)(logits, tap, regions, [0, 3]) for head in ("auto", "autograd")
        )
        torch.testing.assert_close(auto, autograd, rtol=0, atol=0)


@pytest.mark.parametrize("place", ["maps", "pooled", "flat", "hidden", "relu", "logits"])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * 2,
        lambda x: x.mul_(2),
        lambda x: x.roll(1, 0),
        lambda x: x + x.mean(0),
        tf.relu,
    ],
    ids=["times 2", "times 2 in place", "other images", "added", "relu"],
)
def test_code_between_the_modules_is_never_overlooked(place, change):
    if place == "maps" and change(torch.ones(2)).sum() == 4:
        change = lambda x: x * 2  # in place there is another error, tested with the tap  # noqa: E731
    if place == "relu" and change(torch.ones(2)).sum() == 4:
        place = "hidden"  # what a ReLU saved must not change: torch refuses, with or without a tap
    net = Functional({place: change}).double()
    regions = grids(4, 2, 6, 6)
    with ActivationTap(net, "trunk") as tap:
        logits = net(X.double())
        assert isinstance(ClosedForm.of(tap, logits), str)
        with pytest.raises(
            ValueError, match=r"head: expected a head with a closed form for 'closed', but .+"
        ):
            IoUCamLoss(head="closed")(logits, tap, regions, [0, 3])
        auto = IoUCamLoss()(logits, tap, regions, [0, 3])
        wanted = plain_gradients(logits, tap.activations, torch.tensor([[0, 3]] * 4))
        torch.testing.assert_close(auto, functional.cam_iou_loss(tap.activations, wanted, regions))


def test_permuted_flatten_is_no_flatten():
    net = Functional(flatten=lambda x: x.permute(0, 2, 3, 1).flatten(1)).double()
    with ActivationTap(net, "trunk") as tap:
        assert isinstance(ClosedForm.of(tap, net(X.double())), str)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def patched_forward() -> nn.Module:
    layer = nn.Linear(288, 5)
    layer.forward = lambda x: 2 * tf.linear(x, layer.weight)
    return layer


def hooked() -> nn.Module:
    layer = nn.Linear(288, 5)
    layer.register_forward_hook(lambda m, a, out: 2 * out)
    return layer


def pre_hooked() -> nn.Module:
    layer = nn.Linear(288, 5)
    layer.register_forward_pre_hook(lambda m, a: (2 * a[0],))
    return layer


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (
            lambda: nn.Sequential(nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            r"'5.0' \(Conv2d\)",
        ),
        (
            lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)),
            r"'5.0' \(ReLU\) comes before",
        ),
        (
            lambda: nn.Sequential(nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(128, 5)),
            r"'5.0' \(AvgPool2d\)",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(288, 5), nn.Sigmoid()),
            r"'5.2' \(Sigmoid\)",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(288, 5), nn.ReLU()),
            r"'5.2' \(ReLU\) changes the logits",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(288, 9), nn.GELU(), nn.Linear(9, 5)),
            r"'5.2' \(GELU\)",
        ),
        (
            lambda: nn.Sequential(
                nn.Flatten(),
                nn.Dropout(),
                nn.Unflatten(1, (8, 6, 6)),
                nn.AvgPool2d(6),
                nn.Flatten(),
                nn.Linear(8, 5),
            ),
            r"'5.3' \(AvgPool2d\) does not",
        ),
        (
            lambda: nn.Sequential(nn.Dropout(), nn.MaxPool2d(6), nn.Flatten(), nn.Linear(8, 5)),
            r"'5.1' \(MaxPool2d\)",
        ),
        (
            lambda: nn.Sequential(
                nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(inplace=True), nn.Linear(72, 5)
            ),
            r"'5.2' \(Dropout\), which is not",
        ),
        (lambda: nn.Sequential(nn.Flatten(), nn.AlphaDropout(), nn.Linear(288, 5)), "AlphaDropout"),
        (lambda: nn.Sequential(nn.Flatten(), Doubled(288, 5)), "Doubled"),
        (lambda: nn.Sequential(nn.Flatten(), patched_forward()), r"'5.1' \(Linear\)"),
        (lambda: nn.Sequential(nn.Flatten(), hooked()), "code outside of modules"),
        (lambda: nn.Sequential(nn.Flatten(), pre_hooked()), r"'5.1' \(Linear\), whose input"),
        (
            lambda: nn.Sequential(
                nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(288, 5))
            ),
            "code outside of modules",
        ),
        (lambda: nn.Sequential(nn.MaxPool2d(6), nn.Flatten()), "no linear layer"),
        (
            lambda: nn.Sequential(
                nn.Flatten(),
                nn.Unflatten(1, (2, 144)),
                nn.Flatten(0, 1),  # [2N, 144]
                nn.Linear(144, 3),
                nn.Unflatten(0, (-1, 2)),
                nn.Flatten(),
                nn.Linear(6, 5),
            ),
            r"'5.3' \(Linear\) does not act on the flattened",
        ),
    ],
)
def test_what_prevented_a_closed_form_is_named(head, why):
    net = nn.Sequential(*small_cnn()[:5], head()).double()
    with ActivationTap(net, "4") as tap:
        logits = net(X.double())
        with pytest.raises(ValueError, match=why):
            IoUCamLoss(head="closed")(logits, tap, grids(4, 2, 6, 6), [0, 3])
        auto = IoUCamLoss(head="auto")(logits, tap, grids(4, 2, 6, 6), [0, 3])
        torch.testing.assert_close(
            auto, IoUCamLoss(head="autograd")(logits, tap, grids(4, 2, 6, 6), [0, 3])
        )


class To(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype)


def test_linear_layers_of_two_dtypes_have_no_closed_form():
    hidden = nn.Linear(288, 9), nn.ReLU(), To(torch.float64), nn.Linear(9, 5).double()
    net = nn.Sequential(*small_cnn()[:5], nn.Flatten(), *hidden)
    with ActivationTap(net, "4") as tap:
        logits = net(X)
        with pytest.raises(ValueError, match=r"'9' \(Linear\) is torch.float64, and those before"):
            IoUCamLoss(head="closed")(logits, tap, grids(4, 6, 6), 3)
        IoUCamLoss()(logits, tap, grids(4, 6, 6), 3).backward()


def test_a_head_of_another_dtype_than_the_layer():
    torch.manual_seed(0)
    head = To(torch.float32), nn.Linear(288, 9), nn.ReLU(), nn.Linear(9, 5)
    net = nn.Sequential(*small_cnn()[:5].bfloat16(), nn.Flatten(), *head)
    found = []
    for kind in ("closed", "autograd"):
        with ActivationTap(net, "4") as tap:
            logits = net(X.bfloat16())
            loss = IoUCamLoss(sharpness=2.0, head=kind)(logits, tap, grids(4, 2, 6, 6), [0, 3])
        found.append([loss, *torch.autograd.grad(loss, [net[7].weight, net[9].weight])])
    for got, wanted in zip(*found, strict=True):
        atol = 0.02 * wanted.detach().abs().max().item()
        torch.testing.assert_close(got, wanted, rtol=0.05, atol=atol)


def test_unwatched_hooks_of_the_user_do_not_stand_in_the_way():
    net = small_cnn().double()
    net[8].register_forward_hook(lambda m, a, out: None)
    with ActivationTap(net, "4") as tap:
        assert_closed_is_autograd(tap, net(X.double()), net, 2)


def test_weights_changed_after_the_forward():
    net = small_cnn()
    with ActivationTap(net, "4") as tap:
        logits = net(X)
        with torch.no_grad():
            net[8].weight.mul_(2)
        with pytest.raises(
            ValueError, match=r"the weight of '8' \(Linear\) changed after the forward"
        ):
            IoUCamLoss(head="closed")(logits, tap, grids(4, 6, 6), 1)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.flatten = small_cnn()[:5], nn.Flatten()
        self.a, self.b = nn.Linear(288, 5), nn.Linear(288, 5)

    def forward(self, x):
        flat = self.flatten(self.trunk(x))
        return self.a(flat), self.b(flat)


def test_each_of_two_heads_has_its_own_form():
    net = TwoHeads().double()
    with ActivationTap(net, "trunk") as tap:
        for logits, layer in zip(net(X.double()), (net.a, net.b), strict=True):
            grads = assert_closed_is_autograd(tap, logits, net, 1)
            assert grads["a.weight"].any() == (layer is net.a)
        total = sum(net(X.double()))
        assert isinstance(ClosedForm.of(tap, total), str)


def test_mean_dropout_leaves_out_the_first_dropout_only():
    net = small_cnn().double()
    x = X.double()
    for training in (True, False):
        net.train(training)
        with ActivationTap(net, "4", "5") as tap:
            logits = net(x)
            exact = ClosedForm.of(tap, logits)
            mean = ClosedForm.of(tap, logits, mean_dropout=True)
            assert mean.multipliers[0] == []
            got = mean.gradients(resolve([1, 2], logits), create_graph=True)[..., 0, 0]
            if not training:
                torch.testing.assert_close(
                    got, exact.gradients(resolve([1, 2], logits), True)[..., 0, 0]
                )
                continue
            # by hand: the ReLU and dropout that lie between the two linear layers stay
            hidden = next(c for c in tap.trace.calls if c.name == "10").output
            v = (net[11].weight[[1, 2]] * (2.0 * (hidden != 0))[:, None]) @ net[8].weight
            torch.testing.assert_close(got, v.unflatten(-1, (8, 9)).sum(-1))
            assert not torch.allclose(
                got, exact.gradients(resolve([1, 2], logits), True)[..., 0, 0]
            )
            loss = IoUCamLoss(head="mean_dropout")(logits, tap, grids(4, 2, 6, 6), [1, 2])
            assert gradients_of(loss, net)["8.weight"].abs().sum() > 0


def test_masks_are_those_of_the_forward_and_no_random_number_is_drawn():
    net = small_cnn()
    with ActivationTap(net, "4") as tap:
        logits = net(X)
        state = torch.get_rng_state()
        first = ClosedForm.of(tap, logits).gradients(resolve(1, logits), False)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first, ClosedForm.of(tap, logits).gradients(resolve(1, logits), False))
        again = net(X)
        other = ClosedForm.of(tap, again).gradients(resolve(1, again), False)
        assert not torch.equal(first, other)
