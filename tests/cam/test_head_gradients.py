"""How the gradients of a closed form reach the head's weights: the same by every way of asking."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from networks import grids, small_cnn
from torch import Tensor, nn

from fastcam.cam import products, weight_gradients
from fastcam.cam.tap import ActivationTap
from fastcam.losses.cam import IoUCamLoss

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
WHERE = torch.tensor([[True, False], [True, True], [False, False], [False, True]])


def forward(net: nn.Module, head: str = "auto", targets=(1, 3), **options) -> tuple[Tensor, Tensor]:
    """The logits' own loss and the map's, with the same dropout masks in every call."""
    torch.manual_seed(0)
    with ActivationTap(net, "4", "5") as tap:
        logits = net(X)
        regions = grids(4, len(targets), 6, 6)
        guide = IoUCamLoss(sharpness=2.0, head=head)(logits, tap, regions, targets, **options)
    return logits.square().mean(), guide


def parameters(net: nn.Module) -> list[nn.Parameter]:
    return list(net.parameters())


def wanted(net: nn.Module, **options) -> list[Tensor]:
    """Gradients of the sum by autograd through the head."""
    plain, guide = forward(net, "autograd", **options)
    return list(torch.autograd.grad(plain + guide, parameters(net)))


@pytest.fixture
def count(monkeypatch) -> list[bool]:
    """For each contribution: whether it was deferred."""
    left: list[bool] = []
    defer = products.FusedAccumulation.defer

    def counted(self, contribution):
        left.append(defer(self, contribution))
        return left[-1]

    monkeypatch.setattr(products.FusedAccumulation, "defer", counted)
    return left


@pytest.fixture(params=["dropout in front", "none in front", "one target", "mean_dropout"])
def case(request):
    net = small_cnn().double()
    options: dict = {}
    if request.param == "none in front":
        net[7] = nn.Identity()
    if request.param == "one target":
        options = {"targets": (3,)}
    return net, options, "mean_dropout" if request.param == "mean_dropout" else "auto"


def expected(case) -> list[Tensor]:
    net, options, head = case
    if head == "auto":
        return wanted(net, **options)
    # What autograd adds up when it is asked for the two one after the other.
    plain, guide = forward(net, head, **options)
    first = torch.autograd.grad(plain, parameters(net), retain_graph=True)
    second = torch.autograd.grad(guide, parameters(net), allow_unused=True)
    return [a if b is None else a + b for a, b in zip(first, second, strict=True)]


def test_one_backward_adds_in_place(case, count):
    net, options, head = case
    should = expected(case)
    count.clear()
    plain, guide = forward(net, head, **options)
    (plain + guide).backward()
    assert count == [True] * 1, "the first linear layer's part was left where its own arises"
    torch.testing.assert_close([p.grad for p in parameters(net)], should)


def test_without_the_engines_answers_autograd_adds(case, count, monkeypatch):
    net, options, head = case
    should = expected(case)
    count.clear()
    monkeypatch.setattr(weight_gradients, "_ENGINE_TELLS", False)
    plain, guide = forward(net, head, **options)
    (plain + guide).backward()
    assert count == []
    torch.testing.assert_close([p.grad for p in parameters(net)], should)


def test_torch_autograd_grad_and_its_subsets(case, count):
    net, options, head = case
    should = expected(case)
    plain, guide = forward(net, head, **options)
    total = plain + guide
    torch.testing.assert_close(
        list(torch.autograd.grad(total, parameters(net), retain_graph=True)), should
    )
    for chosen in range(len(should)):
        got = torch.autograd.grad(total, parameters(net)[chosen], retain_graph=True)
        torch.testing.assert_close(got[0], should[chosen])
    names = [name for name, _ in net.named_parameters()]
    bias = parameters(net)[names.index("8.bias")]
    count.clear()
    torch.autograd.grad(total, bias, retain_graph=True)
    assert not any(count)


@pytest.mark.parametrize("guide_first", [False, True])
def test_separate_backwards_accumulate(case, count, guide_first):
    net, options, head = case
    should = expected(case)
    count.clear()
    plain, guide = forward(net, head, **options)
    first, second = (guide, plain) if guide_first else (plain, guide)
    first.backward(retain_graph=True)
    second.backward()
    assert count == [False], "alone, the map's loss brings its own gradient"
    torch.testing.assert_close([p.grad for p in parameters(net)], should)


def test_retained_graphs_and_accumulation(case):
    net, options, head = case
    should = expected(case)
    plain, guide = forward(net, head, **options)
    for _ in range(2):
        (plain + guide).backward(retain_graph=True)
    again, more = forward(net, head, **options)
    (again + more).backward()
    torch.testing.assert_close([p.grad for p in parameters(net)], [3 * g for g in should])


def test_two_losses_of_one_forward(count):
    net = small_cnn().double()
    torch.manual_seed(0)
    with ActivationTap(net, "4", "5") as tap:
        logits = net(X)
        losses = {
            head: sum(
                IoUCamLoss(sharpness=2.0, head=head)(logits, tap, grids(4, 6, 6, seed=t), t)
                for t in range(3)
            )
            + logits.square().mean()
            for head in ("auto", "autograd")
        }
    got = torch.autograd.grad(losses["auto"], parameters(net), retain_graph=True)
    assert count == [True] * 3
    torch.testing.assert_close(got, torch.autograd.grad(losses["autograd"], parameters(net)))


def test_hooks_of_the_user_see_one_sum(case):
    net, options, head = case
    should = dict(zip([n for n, _ in net.named_parameters()], expected(case), strict=True))
    seen: list[tuple[str, Tensor]] = []
    for name in ("8.weight", "11.weight"):
        weight = net.get_parameter(name)
        weight.register_hook(lambda grad, n=name: seen.append((n, grad.clone())))
        weight.register_post_accumulate_grad_hook(
            lambda p, n=name: seen.append((f"{n} after", p.grad.clone()))
        )
    plain, guide = forward(net, head, **options)
    (plain + guide).backward()
    assert sorted(name for name, _ in seen) == sorted(
        f"{n}{after}" for n in ("8.weight", "11.weight") for after in ("", " after")
    )
    for name, grad in seen:
        torch.testing.assert_close(grad, should[name.removesuffix(" after")])


def test_a_frozen_weight_and_a_shared_one(count):
    net = small_cnn().double()
    net[8].weight.requires_grad_(False)
    plain, guide = forward(net)
    (plain + guide).backward()
    assert net[8].weight.grad is None
    assert count == []

    net = nn.Sequential(*small_cnn()[:6], nn.Flatten(), nn.Linear(72, 72), nn.ReLU()).double()
    net.append(net[7])  # the same layer twice
    net.append(nn.Linear(72, 5).double())
    should = wanted(net)
    plain, guide = forward(net)
    got = torch.autograd.grad(plain + guide, parameters(net))
    torch.testing.assert_close(list(got), should)


def test_a_failed_backward_leaves_nothing_behind(case):
    net, options, head = case
    should = expected(case)
    plain, guide = forward(net, head, **options)
    handle = net[8].bias.register_hook(lambda grad: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        (plain + guide).backward(retain_graph=True)
    handle.remove()
    net.zero_grad()
    (plain + guide).backward(retain_graph=True)
    torch.testing.assert_close([p.grad for p in parameters(net)], should)


def test_nothing_outlives_the_graph():
    net = small_cnn().double()
    gc.collect()
    gc.disable()
    try:
        plain, guide = forward(net)
        total = plain + guide
        nodes = [node for node, _ in total.grad_fn.next_functions]
        watched = weakref.ref(nodes[1])
        pending = [o for o in gc.get_objects() if type(o) is weight_gradients._Pending]
        assert len(pending) == 1
        refs = [weakref.ref(box) for box in pending]
        total.backward()
        del pending, nodes, plain, guide, total
        assert watched() is None
        assert [ref() for ref in refs] == [None], "freed without the garbage collector"
    finally:
        gc.enable()


@pytest.mark.parametrize("targets", [(1, 3), (2,)])
@pytest.mark.parametrize("in_front", [True, False])
def test_pairs_that_do_not_count_change_nothing(targets, in_front):
    net = small_cnn().double()
    if not in_front:
        net[7] = nn.Identity()
    where = WHERE[:, : len(targets)]
    should = wanted(net, targets=targets, where=where)
    plain, guide = forward(net, targets=targets, where=where)
    torch.testing.assert_close(guide, forward(net, "autograd", targets, where=where)[1])
    torch.testing.assert_close(list(torch.autograd.grad(plain + guide, parameters(net))), should)


@pytest.mark.parametrize("targets", [(1, 3), (2,)])
@pytest.mark.parametrize("in_front", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_no_pair_at_all(targets, in_front, together, monkeypatch):
    """As in a batch in which no image has the attribute."""
    monkeypatch.setattr(weight_gradients, "_ENGINE_TELLS", together)
    net = small_cnn().double()
    if not in_front:
        net[7] = nn.Identity()
    where = WHERE[:, : len(targets)] & False
    plain, guide = forward(net, targets=targets, where=where)
    assert guide == 0
    got = torch.autograd.grad(guide, [net[8].weight, net[11].weight], retain_graph=True)
    assert not any(grad.any() for grad in got)
    (plain + guide).backward()
    should = wanted(net, targets=targets, where=where)
    torch.testing.assert_close([p.grad for p in parameters(net)], should)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("by_image", [True, False])
def test_gradcheck_and_a_second_derivative(kept, targets, by_image):
    """Of two linear layers [4,6] and [5,4], with 3 channels at 2 positions, and two images."""
    rng = torch.Generator().manual_seed(5)

    def some(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    first, last = some(4, 6).requires_grad_(), some(5, 4).requires_grad_()
    index = torch.tensor([[4, 0, 4][:targets], [1, 2, 2][:targets]][: 1 + by_image])
    mask, blocks = (some(2, 6) > 0).double() * 2 if kept else None, some(2, 4) > 0
    stages = [
        products.WeightRows(index.flatten(), weight_index=1),
        products.Multiplied([blocks], targets),
    ]
    if mask is None:
        stages.append(products.SummedProduct(2, weight_index=0))
    elif targets == 1:
        stages += [products.Product(weight_index=0), products.KeptSum(2, mask)]
    else:
        stages.append(products.MaskedProduct(mask.unflatten(1, (3, 2)), targets, weight_index=0))
    stages.append(products.Output((2, targets), torch.float64))

    def product(first, last):
        return products.chain(stages, [first, last])

    v = last[index].masked_fill(blocks.unsqueeze(1), 0) @ first
    plain = (v if mask is None else v * mask.unsqueeze(1)).unflatten(-1, (3, 2)).sum(-1)
    torch.testing.assert_close(product(first, last)[..., 0, 0], plain)
    assert torch.autograd.gradcheck(product, (first, last))
    assert torch.autograd.gradgradcheck(product, (first, last))


def test_chunks_of_the_hidden_layer(monkeypatch):
    net = small_cnn().double()
    should = wanted(net)
    monkeypatch.setattr(products, "_CHUNK_ELEMENTS", 1)
    plain, guide = forward(net)
    torch.testing.assert_close(list(torch.autograd.grad(plain + guide, parameters(net))), should)


def test_compiled_autograd_adds_the_two_itself(count):
    """It runs hooks as part of a graph in which each of the two gradients must exist."""
    compiled_autograd = pytest.importorskip("torch._dynamo.compiled_autograd")
    net = small_cnn().double()
    should = wanted(net)
    count.clear()
    plain, guide = forward(net)
    with compiled_autograd._enable(torch.compile(backend="eager")):
        (plain + guide).backward()
    assert count == [False]
    torch.testing.assert_close([p.grad for p in parameters(net)], should)


@pytest.mark.parametrize("mask", [True, False])
def test_autocast_chooses_the_dtypes(mask, count):
    net = small_cnn()
    if not mask:
        net[7] = nn.Identity()
    losses = []
    for head in ("closed", "autograd"):
        torch.manual_seed(0)
        with (
            torch.autocast("cpu", torch.bfloat16),
            ActivationTap(net, "4", "5") as tap,
        ):
            logits = net(X.float())
            guide = IoUCamLoss(sharpness=2.0, head=head)(logits, tap, grids(4, 2, 6, 6), [1, 3])
        losses.append(guide + logits.float().square().mean())
    grads = [torch.autograd.grad(loss, parameters(net)) for loss in losses]
    assert not any(count), "the layer's own gradient is one of a cast weight there"
    torch.testing.assert_close(losses[0], losses[1], rtol=3e-2, atol=1e-2)
    for a, b in zip(*grads, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 5e-2 * b.norm()
