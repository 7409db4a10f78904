"""``head="auto"`` is autograd's answer for every program: what people do to heads, by kind."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections import Counter

import fuzz_heads
import pytest
import torch
from networks import gradients_of, grids, small_cnn
from random_heads import HOOKS, JOINTS, negated, with_node_hook, with_node_prehook, with_tensor_hook
from torch import Tensor, nn
from torch.nn import functional as tf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as torch_module

from fastcam.cam import heads, products
from fastcam.cam.closed_form import ClosedForm
from fastcam.cam.head_graph import reached
from fastcam.cam.maps import grad_cam_maps
from fastcam.cam.tap import ActivationTap
from fastcam.losses.cam import IoUCamLoss
from fastcam.losses.input_gradient import InputGradientLoss
from fastcam.ops import autograd

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
REGIONS = grids(4, 2, 6, 6)


class Net(nn.Module):
    """Layers of a closed form, with a function between each two."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.pool = small_cnn()[:5], nn.MaxPool2d(2)
        self.first, self.act, self.last = nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 5)
        self.at: dict[str, object] = {}
        self.trunk[1] = self.trunk[4] = nn.ReLU()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        def at(place: str, value: Tensor) -> Tensor:
            return self.at.get(place, lambda y: y)(value)

        pooled = at("pooled", self.pool(at("maps", self.trunk(x))))
        hidden = at("hidden", self.first(at("flat", pooled.flatten(1))))
        return at("logits", self.last(at("act", self.act(hidden))))


def loss_and_gradients(net: nn.Module, head: str, after=lambda logits: logits, **options):
    torch.manual_seed(1)
    with ActivationTap(net, "trunk", **options) as tap:
        logits = after(net(X))
        loss = IoUCamLoss(sharpness=2.0, head=head)(logits, tap, REGIONS, [0, 3])
        maps = grad_cam_maps(logits, tap, [0, 3], head=head)
    return loss.detach(), maps, gradients_of(loss, net)


def assert_auto_is_autograd(net: nn.Module, *, closed: bool = False, **options) -> None:
    got, wanted = (loss_and_gradients(net, head, **options) for head in ("auto", "autograd"))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
    if closed:
        torch.testing.assert_close(loss_and_gradients(net, "closed", **options), got)
    else:
        with pytest.raises(ValueError, match="closed form for 'closed', but"):
            loss_and_gradients(net, "closed", **options)


PLACES = ("maps", "pooled", "flat", "hidden", "act", "logits")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "name", ["reverse", "tensor hook", "node hook", "node pre-hook", "alias with a hook"]
)
def test_what_changes_only_gradients(name, place):
    net = Net()
    net.at[place] = JOINTS[name]
    # A hook on the layer's own node acts behind the layer, where D ends.
    assert_auto_is_autograd(net, closed=place == "maps" and name.startswith("node"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["removed hook", "retain_grad"])
def test_what_changes_nothing_does_not_stand_in_the_way(name, place):
    net = Net()
    net.at[place] = JOINTS[name]
    assert_auto_is_autograd(net, closed=True)


@pytest.mark.parametrize("place", ["maps", "hidden", "logits"])
@pytest.mark.parametrize("head", ["auto", "autograd"])
def test_retained_gradients_are_those_of_the_loss_alone(head, place):
    """D passes there as well, and a batched one is of another shape."""
    net, kept = Net(), []
    net.at[place] = lambda x: (kept.append(x), x.retain_grad(), x)[-1]
    with ActivationTap(net, "trunk") as tap:
        logits = net(X)
        for targets in ([0, 3], [1, 2]):
            loss = IoUCamLoss(sharpness=2.0, head=head)(logits, tap, REGIONS, targets)
            grad_cam_maps(logits, tap, head=head)
            assert kept[0].grad is None
    (wanted,) = torch.autograd.grad(
        loss + logits.square().sum(), kept[0], retain_graph=True, allow_unused=True
    )
    kept[0].grad = None
    (loss + logits.square().sum()).backward()
    torch.testing.assert_close(kept[0].grad, wanted)


@pytest.mark.parametrize("name", [name for name in HOOKS if "looks" not in name])
@pytest.mark.parametrize("place", ["pool", "first", "act", "last"])
def test_hooks_of_modules(name, place):
    net = Net()
    HOOKS[name](net.get_submodule(place))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about legacy hooks
        assert_auto_is_autograd(net)


@pytest.mark.parametrize("name", ["backward pre", "backward, legacy", "forward, node"])
def test_hooks_of_what_contains_the_head(name):
    net = Net()
    HOOKS[name](net)
    assert_auto_is_autograd(net)


@pytest.mark.parametrize(
    "register",
    [
        lambda: torch_module.register_module_forward_hook(
            lambda m, a, out: out * 3 if isinstance(m, nn.Linear) else None
        ),
        lambda: torch_module.register_module_full_backward_hook(
            lambda m, into, out: (-into[0],) if isinstance(m, nn.ReLU) else None
        ),
        lambda: torch_module.register_module_full_backward_pre_hook(
            lambda m, out: (-out[0],) if isinstance(m, nn.ReLU) else None
        ),
    ],
)
def test_hooks_of_all_modules(register):
    net = Net()
    handle = register()
    try:
        assert_auto_is_autograd(net)
        with ActivationTap(net, "trunk") as tap, torch.no_grad():
            logits = net(X)
            if isinstance(tap.trace.chain.outside, str):  # of a forward hook
                with pytest.raises(ValueError, match="registered for all modules"):
                    grad_cam_maps(logits, tap, head="closed")
    finally:
        handle.remove()
    assert_auto_is_autograd(net, closed=True)


@pytest.mark.parametrize(
    ("cls", "forward"),
    [
        (nn.Linear, lambda m, x: tf.linear(x, m.weight, m.bias) + 0.1 * x.sum(1, keepdim=True)),
        (nn.Linear, lambda m, x: tf.linear(x, 2 * m.weight, m.bias)),
        (nn.Linear, lambda m, x: torch.addmm(m.bias, x, m.weight.t(), alpha=2)),
        (nn.ReLU, lambda m, x: tf.leaky_relu(x, -0.9) if x.dim() == 2 else tf.relu(x)),
        (nn.MaxPool2d, lambda m, x: 2 * tf.max_pool2d(x, 2)),
    ],
)
def test_forward_replaced_on_the_class(cls, forward, monkeypatch):
    net = Net()
    monkeypatch.setattr(cls, "forward", forward)
    assert_auto_is_autograd(net)
    with ActivationTap(net, "trunk") as tap, torch.no_grad():
        logits = net(X)
        with pytest.raises(ValueError, match="not a layer of a closed form"):
            grad_cam_maps(logits, tap, head="closed")


@pytest.mark.parametrize("place", PLACES[1:])
@pytest.mark.parametrize("name", ["detach", "data", "no_grad"])
def test_a_head_that_is_cut_off_says_what_autograd_says(name, place):
    net = Net()
    net.at[place] = JOINTS[name]
    said = []
    for head in ("auto", "autograd"):
        with pytest.raises(ValueError, match=r"^logits: ") as error:
            loss_and_gradients(net, head)
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("late", [with_tensor_hook, with_node_hook, with_node_prehook])
def test_hooks_between_the_forward_and_the_loss(late):
    net = Net()
    assert_auto_is_autograd(net, closed=True)  # met before: the comparison alone would not tell
    assert_auto_is_autograd(net, after=late)
    kept: list[Tensor] = []
    net.at["hidden"] = lambda x: kept.append(x) or x
    assert_auto_is_autograd(net, after=lambda logits: (late(kept[-1]), logits)[1])


@pytest.mark.parametrize("forwards", [0, 1])
def test_a_hook_that_a_pre_hook_within_the_block_registers(forwards):
    """Before the tap has hooks of its own on the modules, and after."""
    net = Net()
    net.act.inplace = True
    with ActivationTap(net, "trunk") as tap:
        for _ in range(forwards):
            assert not isinstance(ClosedForm.of(tap, net(X)), str)
        net.act.register_forward_pre_hook(lambda m, a: (with_tensor_hook(a[0]),))
        logits = net(X)
        assert isinstance(ClosedForm.of(tap, logits), str)


def test_a_hook_on_what_a_module_overwrites():
    net = Net()
    net.act.inplace = True
    assert_auto_is_autograd(net, closed=True)
    net.at["hidden"] = with_tensor_hook
    with ActivationTap(net, "trunk") as tap:
        assert isinstance(ClosedForm.of(tap, net(X)), str)


def test_what_hooks_have_packed_away_is_not_looked_at():
    net = Net()
    assert_auto_is_autograd(net, closed=True)
    with ActivationTap(net, "trunk") as tap:
        with torch.autograd.graph.save_on_cpu():
            logits = net(X)
        found = ClosedForm.of(tap, logits)
    assert isinstance(found, str)
    assert "saved is packed away by a hook" in found


def test_a_hook_on_the_layers_output():
    net = Net()
    net.at["maps"] = with_tensor_hook
    assert_auto_is_autograd(net)


def test_hooks_between_the_layer_and_gradient_at():
    """There the sum over positions is another; D is taken at the layer."""
    net = Net()
    plain = loss_and_gradients(net, "autograd", gradient_at="pool")
    torch.testing.assert_close(loss_and_gradients(net, "autograd"), plain)
    net.pool.register_full_backward_hook(lambda m, into, out: (into[0] * into[0],))
    hooked = loss_and_gradients(net, "autograd")
    assert not torch.allclose(hooked[0], plain[0])
    for head in ("auto", "autograd"):
        got = loss_and_gradients(net, head, gradient_at="pool")
        torch.testing.assert_close(got, hooked)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.data.mul_(2),
        lambda w: setattr(w, "data", -2 * w.data),
        lambda w: torch.nn.init.zeros_(w),
    ],
)
def test_weights_that_change_after_the_forward(change):
    results = []
    for head in ("auto", "autograd"):
        net = Net()

        def after(logits: Tensor, net: Net = net) -> Tensor:
            change(net.first.weight)
            return logits

        try:
            results.append(loss_and_gradients(net, head, after=after))
        except RuntimeError as error:
            results.append(str(error)[:80])
    if isinstance(results[0], str):
        assert results[0] == results[1]
    else:
        torch.testing.assert_close(results[0], results[1])


def test_weights_that_one_call_has_replaced():
    net = Net()
    other = {"first.weight": torch.randn(8, 72, dtype=X.dtype, requires_grad=True)}
    losses = []
    for head in ("closed", "autograd"):
        with ActivationTap(net, "trunk") as tap:
            logits = torch.func.functional_call(net, other, X)
            loss = IoUCamLoss(sharpness=2.0, head=head)(logits, tap, REGIONS, [0, 3])
        losses.append((loss, *torch.autograd.grad(loss, list(other.values()))))
    torch.testing.assert_close(losses[0], losses[1])
    other["first.weight"] = other["first.weight"] * 2  # no leaf: the weight may depend on anything
    with ActivationTap(net, "trunk") as tap:
        logits = torch.func.functional_call(net, other, X)
        assert isinstance(ClosedForm.of(tap, logits), str)


@pytest.mark.parametrize("form", ["shared", "all", "where"])
def test_dropouts_on_both_sides_of_a_flatten_and_linears_side_by_side(form):
    torch.manual_seed(0)
    head = [nn.Dropout(0.25), nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 9), nn.Linear(9, 5)]
    net = nn.Sequential(*small_cnn()[:6], *head).double()
    targets = None if form == "all" else [1, 4]
    regions = grids(4, 5 if form == "all" else 2, 6, 6)
    where = torch.tensor([[True, False], [False, False], [True, True], [True, True]])
    options = {"where": where} if form == "where" else {}
    results = []
    for way in ("closed", "autograd"):
        torch.manual_seed(1)
        with ActivationTap(net, "4") as tap:
            loss = IoUCamLoss(sharpness=2.0, head=way)(net(X), tap, regions, targets, **options)
        results.append((loss.detach(), gradients_of(loss, net)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", ["shared", "all", "where"])
def test_the_dropout_of_a_gpu(form, monkeypatch):
    """There it is one operation with a mask, which the CPU has under a name of its own."""

    def fused(x: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        return torch.native_dropout(x, p, True)[0] if training else x

    monkeypatch.setattr(tf, "dropout", fused)
    test_dropouts_on_both_sides_of_a_flatten_and_linears_side_by_side(form)


# ---- the comparison of a head that is met for the first time -------------------------------------


@pytest.fixture
def compared(monkeypatch) -> list[bool | None]:
    verdicts: list[bool | None] = []
    compare = heads._compare

    def counted(*args):
        verdicts.append(compare(*args))
        return verdicts[-1]

    monkeypatch.setattr(heads, "_compare", counted)
    return verdicts


def test_a_head_is_compared_once(compared):
    net = Net()
    for _ in range(3):
        loss_and_gradients(net, "auto")
    assert compared == [True]
    net.last = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5)).double()
    loss_and_gradients(net, "auto")
    assert compared == [True, True]
    dead = weakref.ref(net)
    del net
    gc.collect()
    assert dead() is None, "the verdict does not keep the model alive"


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_nothing_is_remembered_where_nothing_could_be_compared(value, compared):
    net = Net()
    torch.nn.init.constant_(net.first.weight, value)
    with ActivationTap(net, "trunk") as tap:
        grad_cam_maps(net(X), tap, [0, 3])
    assert compared == [None]
    torch.nn.init.ones_(net.first.weight)
    loss_and_gradients(net, "auto")
    assert compared[-1] is True


@pytest.mark.parametrize("head", ["auto", "mean_dropout"])
def test_a_head_whose_closed_form_differs_has_none(head, monkeypatch):
    """As if something acted on gradients that neither graph nor hooks show."""
    monkeypatch.setattr(products, "_through", lambda v, factor: v * 0.5)
    net = Net()
    if head == "auto":
        assert_auto_is_autograd(net)
    with pytest.raises(ValueError, match="closed form differs from what autograd finds"):
        loss_and_gradients(net, "closed" if head == "auto" else head)


# ---- what torch cannot do, and what it may not tell ----------------------------------------------


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = small_cnn()[:5]
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.last = nn.Linear(8, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(self.trunk(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("targets", [[0, 3], [2, 2]])
def test_attention_without_a_second_derivative_is_named_in_the_forward(targets):
    net = Attention()

    def loss(**options) -> Tensor:
        with ActivationTap(net, "trunk") as tap:
            return IoUCamLoss(**options)(net(X), tap, REGIONS, targets)

    with pytest.raises(ValueError, match=r"ScaledDot.*twice.*weight_grad='detach', or .*sdpa_ker"):
        loss()
    loss(weight_grad="detach").backward()
    with sdpa_kernel(SDPBackend.MATH):
        loss().backward()


def test_what_has_no_second_derivative_is_named_with_what_to_do():
    net = nn.Sequential(small_cnn()[:5], nn.Hardsigmoid(), small_cnn()[5:]).double()
    named = (
        r"cannot differentiate hardsigmoid twice.*weight_grad='detach', or .*relu6\(x \+ 3\) / 6"
    )
    with ActivationTap(net, "0") as tap, pytest.raises(ValueError, match=named):
        IoUCamLoss()(net(X), tap, REGIONS, [0, 3])
    images = X.clone().requires_grad_()
    masks = torch.ones(len(X), *X.shape[2:])
    with pytest.raises(ValueError, match=r"hardsigmoid twice.*images and the logits; .*relu6"):
        InputGradientLoss()(net(images), images, masks, 0)
    with pytest.raises(ValueError, match=r"ScaledDot.*images and the logits; run .*sdpa_kernel"):
        InputGradientLoss()(Attention()(images), images, masks, 0)


def test_attention_beside_the_head_is_not_named():
    """As in a CLIP, whose text tower is no way from the layer to the scores."""

    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.text = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(5, 1, 4, 8))

        def forward(self, x: Tensor) -> Tensor:
            maps = self.conv(x)
            prompts = tf.scaled_dot_product_attention(self.text, self.text, self.text)
            return (maps * tf.hardsigmoid(maps)).mean((2, 3)) @ prompts.mean((1, 2)).t()

    net = Towers()
    with ActivationTap(net, "conv") as tap:
        logits = net(torch.randn(2, 3, 12, 12))
        assert "ScaledDot" in "".join(node.name() for node in reached(logits.grad_fn, set()))
        with pytest.raises(ValueError, match=r"differentiate hardsigmoid twice.*relu6\(x \+ 3\)"):
            IoUCamLoss()(logits, tap, grids(2, 10, 10), 1)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


def test_any_other_operation_without_a_second_derivative():
    net = Net()
    net.at["hidden"] = Once.apply
    with pytest.raises(ValueError, match=r"twice, which lies .*use weight_grad='detach'$"):
        loss_and_gradients(net, "auto")


@pytest.mark.parametrize(
    ("error", "surfaces"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("Batching rule not implemented for aten::foo"), False),
        (RuntimeError("vmap: it looks like you're calling .item() on a Tensor"), False),
    ],
)
def test_only_a_missing_batching_rule_is_answered_with_a_loop(error, surfaces, monkeypatch):
    """A hook that is not seen runs in the head's backward, and stands for an operation that
    fails."""
    monkeypatch.setattr(heads, "_may_be_hooked", lambda *_: False)
    net, calls = Net(), []

    def fail(grad: Tensor) -> None:
        calls.append(grad)
        if len(calls) == 1:
            raise error

    def hooked(x: Tensor) -> Tensor:
        x.register_hook(fail)
        return x

    net.at["hidden"] = hooked
    if surfaces:
        with pytest.raises(type(error), match=str(error)[:12]):
            loss_and_gradients(net, "autograd")
        assert len(calls) == 1
    else:
        loss_and_gradients(net, "autograd")
        assert len(calls) > 2


@pytest.mark.parametrize("place", ("layer", *PLACES))
def test_hooks_may_keep_the_gradients_of_several_targets(place):
    """A batch of gradients would be of no use once it has passed."""
    net, kept = Net(), []

    def keeping(x: Tensor) -> Tensor:
        x.register_hook(kept.append)
        return x

    if place == "layer":
        net.trunk.register_forward_hook(lambda module, args, output: keeping(output))
    else:
        net.at[place] = keeping
    loss_and_gradients(net, "auto")
    assert len(kept) > 2 and all(len(grad.tolist()) == len(X) for grad in kept)


def test_a_torch_that_does_not_tell_which_backward_runs(monkeypatch):
    monkeypatch.setattr(autograd, "_task", None)
    assert autograd.running_backward() == -1
    assert_auto_is_autograd(Net(), closed=True)


def test_a_thousand_random_heads():
    """More of them by ``python tests/support/fuzz_heads.py --count 100000``."""
    tally: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong = [said for seed in range(1000) if (said := fuzz_heads.check(seed, tally))]
    assert not wrong
    assert tally["closed"] > 300 and tally["autograd"] > 300 and tally["errors"] < 300


def test_the_fuzz_notices_a_wrong_closed_form(monkeypatch):
    monkeypatch.setattr(heads, "_compare", lambda *_: True)
    monkeypatch.setattr(products, "_through", lambda v, factor: negated(v))
    assert any(fuzz_heads.check(seed) for seed in range(100))
