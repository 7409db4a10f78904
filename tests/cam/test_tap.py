"""``ActivationTap``: what it holds, what it refuses, and what it leaves alone."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from networks import LAYERS, grids, images, network, small_cnn
from torch import nn

from fastcam.cam.tap import ActivationTap
from fastcam.losses.cam import IoUCamLoss

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3))


def hooks(model: nn.Module) -> list[tuple]:
    return [
        (name, tuple(m._forward_hooks), tuple(m._forward_pre_hooks), tuple(m._backward_hooks))
        for name, m in model.named_modules()
    ]


@pytest.mark.parametrize("name", LAYERS)
def test_torchvision_models_as_they_are(name):
    net, (layer, at) = network(name), LAYERS[name]
    seen = {}
    net.get_submodule(layer).register_forward_hook(lambda m, a, out: seen.update(layer=out))
    if at:
        net.get_submodule(at).register_forward_hook(lambda m, a, out: seen.update(at=out))
    with ActivationTap(net, layer, at) as tap:
        net(images(name))
        assert tap.activations is seen["layer"]
        assert tap.gradient_point is seen["at" if at else "layer"]


def test_outputs_and_random_numbers_are_those_of_the_untapped_model():
    net = network("alexnet")
    torch.manual_seed(5)
    wanted, after = net(images("alexnet")), torch.rand(3)
    torch.manual_seed(5)
    with ActivationTap(net, "features.11", "features.12") as tap:
        got = net(images("alexnet"))
        IoUCamLoss()(got, tap, grids(3, 5, 5), 1)
    assert torch.equal(got, wanted)
    assert torch.equal(torch.rand(3), after)


def test_in_place_relu_after_the_tapped_layer_is_an_error_that_names_it():
    net = network("alexnet")
    with ActivationTap(net, "features.10") as tap:
        net(images("alexnet"))
        with pytest.raises(
            ValueError, match=r"overwritten in place by 'features.11' \(ReLU\); tap 'features.11'"
        ):
            _ = tap.activations


def test_tapped_tensor_overwritten_by_code_is_an_error():
    net = network("resnet18")  # out += identity follows bn2
    with ActivationTap(net, "layer4.1.bn2") as tap:
        net(images("resnet18"))
        with pytest.raises(
            ValueError, match=r"code outside of modules, before 'layer4.1.relu' ran"
        ):
            _ = tap.activations


def test_gradient_point_overwritten_in_place_is_an_error():
    net = small_cnn()
    net[6] = nn.Identity()
    net[7] = nn.Dropout(0.5, inplace=True)
    net[8] = nn.Sequential(nn.Flatten(), nn.Linear(72, 16))
    with ActivationTap(net, "4", "5") as tap:
        net(X)
        assert tap.activations.shape == (4, 8, 6, 6)
        with pytest.raises(ValueError, match=r"gradient_at: .* by '7' \(Dropout\)"):
            _ = tap.gradient_point


def test_overwrite_after_the_forward_is_an_error():
    net = small_cnn()
    with ActivationTap(net, "4") as tap:
        net(X)
        tap.activations.detach().zero_()
        with pytest.raises(ValueError, match="code outside of modules"):
            _ = tap.activations


@pytest.mark.parametrize(
    ("between", "offender"),
    [
        (nn.Dropout(0.5), r"'5.0' \(Dropout\)"),
        (nn.ReLU(), r"'5.0' \(ReLU\)"),
        (nn.Sequential(nn.MaxPool2d(2), nn.ReLU(inplace=True)), r"'5.0.1' \(ReLU\)"),
        (nn.AvgPool2d(2, padding=1), r"'5.0' \(AvgPool2d\)"),
        (nn.AvgPool2d(2, divisor_override=3), r"'5.0' \(AvgPool2d\)"),
        (nn.Conv2d(8, 8, 1), r"'5.0' \(Conv2d\)"),
        (nn.BatchNorm2d(8), r"'5.0' \(BatchNorm2d\)"),
    ],
)
def test_gradient_at_names_what_may_not_lie_in_between(between, offender):
    net = small_cnn()
    net[5] = nn.Sequential(between, nn.AdaptiveMaxPool2d(3))
    with ActivationTap(net, "4", "5") as tap:
        net(X)
        with pytest.raises(
            ValueError, match=rf"gradient_at: between '4' and '5' .* but {offender} did"
        ):
            _ = tap.gradient_point


@pytest.mark.parametrize(
    "between",
    [
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d(2, stride=3, dilation=2),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        nn.AdaptiveAvgPool2d((2, 5)),
        nn.AdaptiveAvgPool2d(9),
        nn.Sequential(nn.Identity(), nn.MaxPool2d(2), nn.AvgPool2d(2, 1)),
    ],
    ids=str,
)
def test_sums_over_positions_are_the_same_after_pooling(between):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), between, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    )
    net = net.double()
    x = images("resnet18")[..., :13, :11]
    with ActivationTap(net, "0", "1") as tap:
        score = net(x)[:, 2].sum()
        before, after = torch.autograd.grad(score, (tap.activations, tap.gradient_point))
    assert before.shape != after.shape
    torch.testing.assert_close(after.sum((2, 3)), before.sum((2, 3)))


def test_gradient_at_with_functional_code_in_between():
    class Doubling(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 8, 3)
            self.pool = nn.MaxPool2d(2)
            self.head = nn.Linear(8 * 25, 5)

        def forward(self, x):
            return self.head(self.pool(2 * self.body(x)).flatten(1))

    net = Doubling()
    with ActivationTap(net, "body", "pool") as tap:
        net(X)
        with pytest.raises(ValueError, match="code outside of modules changed it"):
            _ = tap.gradient_point


def test_gradient_at_whose_pooled_output_was_overwritten_within():
    net = small_cnn()
    net[5] = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.ReLU(inplace=True))  # returns the same tensor
    with ActivationTap(net, "4", "5") as tap:
        net(X)
        with pytest.raises(ValueError, match=r"gradient_at: .* but '5.1' \(ReLU\) did"):
            _ = tap.gradient_point


def test_gradient_at_before_the_layer():
    net = small_cnn()
    with ActivationTap(net, "4", "2") as tap:
        net(X)
        with pytest.raises(ValueError, match="'2' did not run after '4'"):
            _ = tap.gradient_point


def test_a_way_around_gradient_at_is_an_error():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 8, 3)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            maps = self.body(x)
            return self.head(self.pool(maps).flatten(1) + maps.amax((2, 3)))

    net = Skipping()
    with ActivationTap(net, "body", "pool") as tap:
        logits = net(X)
        with pytest.raises(ValueError, match="by a way around 'pool' too; leave gradient_at out"):
            IoUCamLoss()(logits, tap, grids(4, 10, 10), 0)
    with ActivationTap(net, "body") as tap:
        IoUCamLoss()(net(X), tap, grids(4, 10, 10), 0).backward()


def test_entered_again_and_the_last_forward_wins():
    net = small_cnn().eval()
    tap = ActivationTap(net, "4")
    for _ in range(2):
        with tap as entered:
            assert entered is tap
            net(X)
            net(X[:2])
            assert len(tap.activations) == 2
        with pytest.raises(ValueError, match="not entered"):
            _ = tap.activations
    with tap, pytest.raises(RuntimeError, match="entered already"):
        tap.__enter__()


def test_a_module_called_twice_counts_with_its_last_call():
    net = network("resnet18").eval()
    block = {}
    net.layer4[1].register_forward_hook(lambda m, a, out: block.update(out=out))
    with ActivationTap(net, "layer4.1.relu") as tap:
        net(images("resnet18"))
        assert tap.activations is block["out"]


def test_no_forward_and_a_forward_that_misses_the_layer():
    net = small_cnn()
    with ActivationTap(net, "4") as tap:
        with pytest.raises(ValueError, match="did not run in the last forward"):
            _ = tap.activations
        net(X)
        with pytest.raises(TypeError):
            net(None)  # a new forward began: what was held of the old one is gone
        with pytest.raises(ValueError, match="did not run in the last forward"):
            _ = tap.activations


def test_a_container_whose_parts_are_called_one_by_one():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stage = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            for part in self.stage:
                x = part(x)
            return self.fc(x.mean((2, 3)))

    net = Net()
    with (
        ActivationTap(net, "stage") as tap,
        ActivationTap(net, "stage.1") as last,
    ):
        net(X)
        assert last.activations.shape == (4, 4, 10, 10)
        with pytest.raises(ValueError, match=r"parts one by one .*: tap the last .*, 'stage\.1'"):
            _ = tap.activations


def test_hooks_of_the_user_stay_and_ours_go():
    net = small_cnn()
    calls = []
    net[4].register_forward_hook(lambda *_: calls.append("user"))
    before = hooks(net)
    with ActivationTap(net, "4", "5"):
        assert hooks(net) != before
        net(X)
    assert hooks(net) == before
    assert calls == ["user"]
    with pytest.raises(KeyError), ActivationTap(net, "4"):
        raise KeyError
    assert hooks(net) == before


def test_output_changed_by_a_hook_of_the_user_is_what_is_tapped():
    net = small_cnn().eval()
    net[4].register_forward_hook(lambda m, a, out: out * 2)
    with ActivationTap(net, "4") as tap:
        logits = net(X)
        (gradient,) = torch.autograd.grad(logits.sum(), tap.activations)
    assert gradient.abs().sum() > 0


def test_mode_and_grad_of_the_model_are_left_alone():
    net = small_cnn()
    net[5].eval()
    modes = [m.training for m in net.modules()]
    for p in net.parameters():
        p.grad = torch.full_like(p, 7.0)
    net.zero_grad = net.eval = net.train = None  # calling any of them would fail
    with ActivationTap(net, "4", "5") as tap:
        loss = IoUCamLoss()(net(X), tap, grids(4, 6, 6), 1)
    assert [m.training for m in net.modules()] == modes
    assert all((p.grad == 7).all() for p in net.parameters())
    assert loss.requires_grad


def test_references_are_dropped_on_exit_and_on_the_next_forward():
    net = small_cnn()
    criterion = IoUCamLoss()
    tap = ActivationTap(net, "4", "5")
    with tap:
        logits = net(X)
        first = weakref.ref(tap.activations)
        loss = criterion(logits, tap, grids(4, 6, 6), 1)
        del logits
        net(X)
        del loss
        assert first() is None, "the last forward should have replaced the first"
        loss = criterion(net(X), tap, grids(4, 6, 6), 1)
        last = weakref.ref(tap.activations)
    loss.backward()
    assert all(p.grad is not None for p in net[:4].parameters())
    del loss
    assert last() is None
    dead = weakref.ref(tap)
    del tap
    assert dead() is None


def test_no_growth_over_300_steps():
    net = small_cnn()
    tap, criterion = ActivationTap(net, "4", "5"), IoUCamLoss()
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)

    def step():
        optimizer.zero_grad()
        with tap:
            logits = net(X)
            loss = logits.square().mean() + criterion(logits, tap, grids(4, 6, 6), 1)
        loss.backward()
        optimizer.step()

    def tensors():
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    gc.collect()
    gc.disable()  # nothing may depend on the cycle collector
    try:
        for _ in range(3):
            step()
        before = tensors()
        for _ in range(300):
            step()
        assert tensors() <= before
    finally:
        gc.enable()


def test_copies_of_the_model_do_not_feed_the_tap():
    net = small_cnn().eval()
    with ActivationTap(net, "4") as tap:
        net(X)
        copied = copy.deepcopy(net.state_dict())
        other = copy.deepcopy(net)
        other(X[:1])
        assert len(tap.activations) == 4
    assert copied.keys() == net.state_dict().keys()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("head", ["auto", "autograd"])
def test_forward_without_a_graph_is_an_error(mode, head):
    net = small_cnn()
    with ActivationTap(net, "4", "5") as tap:
        with mode():
            logits = net(X)
        with pytest.raises(ValueError, match="without a graph"):
            IoUCamLoss(head=head)(logits, tap, grids(4, 6, 6), 1)


def test_what_enables_no_gradients_in_inference_mode_is_named():
    net = small_cnn()
    with ActivationTap(net, "4") as tap, torch.inference_mode(), torch.enable_grad():
        logits = net(X)
        with pytest.raises(ValueError, match="enable_grad, which does not end inference_mode"):
            IoUCamLoss(head="autograd")(logits, tap, grids(4, 6, 6), 1)


@pytest.mark.parametrize("head", ["closed", "autograd"])
def test_frozen_trunk_still_directs_the_head(head):
    net = small_cnn()
    net[:4].requires_grad_(False)
    x = X.clone()
    with ActivationTap(net, "4", "5") as tap:
        logits = net(x)
        IoUCamLoss(head=head)(logits, tap, grids(4, 6, 6), 1).backward()
    assert not x.requires_grad
    assert all(p.grad is None for p in net[:4].parameters())
    assert net[8].weight.grad.abs().sum() > 0
    with ActivationTap(net, "3") as tap:  # what the ReLU in place behind it overwrites is a copy
        assert IoUCamLoss()(net(x), tap, grids(4, 6, 6), 1).requires_grad


def test_features_of_the_user_do_not_start_to_require_grad():
    net = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(3 * 144, 5))
    x = X.clone()
    with ActivationTap(net, "0") as tap:
        IoUCamLoss()(net(x), tap, grids(4, 12, 12), 1).backward()
    assert not x.requires_grad
    assert x.grad is None
    assert net[2].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("layer", "gradient_at", "error", "match"),
    [
        (
            "features.99",
            None,
            ValueError,
            r"layer: the model has no module 'features.99'; did you mean 'features.9'",
        ),
        (
            "features.11",
            "avg",
            ValueError,
            r"gradient_at: .* no module 'avg'; did you mean 'avgpool'",
        ),
        (11, None, TypeError, "layer: expected a module or its name, got int"),
        ("", None, ValueError, "layer: the model has no module ''"),
    ],
)
def test_bad_names(layer, gradient_at, error, match):
    with torch.device("meta"):
        import torchvision

        net = torchvision.models.alexnet()
    with pytest.raises(error, match=match):
        ActivationTap(net, layer, gradient_at)


def test_bad_models():
    with pytest.raises(
        TypeError, match=r"model: expected a torch.nn.Module, got builtin_function_or_method"
    ):
        ActivationTap(torch.relu, "4")
    with pytest.raises(ValueError, match="use DistributedDataParallel"):
        ActivationTap(nn.DataParallel(small_cnn()), "4")
    wrapped = nn.ModuleDict({"module": small_cnn()})
    with pytest.raises(ValueError, match=r"did you mean 'module.4'"):
        ActivationTap(wrapped, "4")


@pytest.mark.parametrize(
    ("layer", "match"), [("6", r"\[N,C,H,W\], got shape \[4, 72\]"), ("11", "got shape")]
)
def test_layer_without_positions(layer, match):
    net = small_cnn()
    with ActivationTap(net, layer) as tap:
        net(X)
        with pytest.raises(ValueError, match=match):
            _ = tap.activations


def test_layer_that_returns_no_tensor():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return self.pair(x)[0].flatten(1)

    net = Net()
    with ActivationTap(net, "pair") as tap:
        net(X)
        with pytest.raises(TypeError, match="floating-point tensor, got tuple; tap a module with"):
            _ = tap.activations


class Averaged(nn.Module):
    def __init__(self, dims, keepdim):
        super().__init__()
        self.conv, self.at, self.dims, self.keepdim = (
            nn.Conv2d(3, 5, 3),
            nn.Identity(),
            dims,
            keepdim,
        )

    def forward(self, x):
        x = self.at(self.conv(x).mean(self.dims, keepdim=self.keepdim))
        return x.flatten(1)[:, :5]


@pytest.mark.parametrize(("dims", "keepdim"), [(1, True), ((1, 2), True), ((2, 3), False)])
def test_a_mean_that_is_no_pooling_ahead_of_gradient_at(dims, keepdim):
    net = Averaged(dims, keepdim)
    with ActivationTap(net, "conv", "at") as tap:
        logits = net(X)
        with pytest.raises(ValueError, match="is not that of 'conv' after pooling alone"):
            IoUCamLoss()(logits, tap, grids(4, 10, 10), 1)
    net = Averaged((-1, -2), True)
    losses = []
    for at in ("at", None):
        with ActivationTap(net, "conv", at) as tap:
            losses.append(IoUCamLoss()(net(X), tap, grids(4, 10, 10), 1))
    torch.testing.assert_close(*losses)


class Argmax(nn.Module):
    def forward(self, x):
        return x.argmax(1, keepdim=True)


def test_a_layer_of_whole_numbers_is_told_when_it_is_asked_for():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), Argmax(), nn.Flatten())
    with ActivationTap(net, "1") as tap:
        assert not net(X).is_floating_point()
        with pytest.raises(TypeError, match="'1' to return one floating-point tensor, got torch.i"):
            _ = tap.activations
