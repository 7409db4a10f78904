"""``ContrastCamLoss`` and ``InputGradientLoss``: values by hand, gradients, pairs that are off."""

from __future__ import annotations

import warnings

import pytest
import torch
from networks import assert_same_gradients, gradients_of, plain_gradients, small_cnn
from torch import nn

import fastcam
from fastcam import ActivationTap, Balance, ContrastCamLoss, InputGradientLoss, reference
from fastcam import functional as F
from fastcam.cam import products

X = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
MASKS = torch.zeros(6, 12, 12, dtype=torch.bool)
MASKS[:, 3:9, 4:8] = True
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def net64() -> nn.Sequential:
    return small_cnn().double().eval()


# ---- contrast ------------------------------------------------------------------------------------


def plain_contrast(tap, logits, pairs, detach=False):
    """[N,T] in plain PyTorch; pairs: T of (target, other)."""
    columns = []
    for pair in pairs:
        d = plain_gradients(logits, tap.activations, torch.tensor([pair] * len(logits)))
        maps = reference.grad_cam(tap.activations, d.detach() if detach else d).flatten(2)
        columns.append(nn.functional.cosine_similarity(maps[:, 0], maps[:, 1], dim=-1))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("head", ["closed", "autograd"])
@pytest.mark.parametrize("weight_grad", ["full", "detach"])
def test_contrast_is_the_cosine_of_two_maps(head, weight_grad):
    net = net64()
    with ActivationTap(net, "4", "5") as tap:
        logits = net(X)
        wanted = plain_contrast(tap, logits, [(1, 3), (0, 3)], weight_grad == "detach")
        alive = fastcam.grad_cam_maps(logits, tap, [1, 0, 3]).flatten(2).any(-1)
        dead = int((~(alive[:, :2] & alive[:, 2:])).sum())
        for reduction, expected in (
            ("none", wanted), ("sum", wanted.sum()), ("mean", wanted.mean()),
        ):  # fmt: skip
            criterion = ContrastCamLoss(weight_grad, head, reduction)
            got = criterion(logits, tap, [1, 0], 3)
            torch.testing.assert_close(got, expected)
        assert (criterion.stats.valid, criterion.stats.dead) == (12, dead)
        assert_same_gradients(gradients_of(got, net), gradients_of(wanted.mean(), net))
    assert 0 < got < 1


def test_contrast_with_targets_of_each_image():
    net = net64()
    others = (LABELS + 1) % 5
    with ActivationTap(net, "4", "5") as tap:
        logits = net(X)
        got = ContrastCamLoss(reduction="none")(logits, tap, LABELS[:, None], others[:, None])
        against = ContrastCamLoss(reduction="none")(logits, tap, 2, others[:, None])
        for n, (label, other) in enumerate(zip(LABELS, others, strict=True)):
            wanted = plain_contrast(tap, logits, [(int(label), int(other))])[n]
            torch.testing.assert_close(got[n], wanted)
            wanted = plain_contrast(tap, logits, [(2, int(other))])[n]
            torch.testing.assert_close(against[n], wanted)
        same = ContrastCamLoss(reduction="none")(logits, tap, 2, 2)
        alive = F.grad_cam(tap.activations, plain_gradients(logits, tap.activations,
                           torch.full((6, 1), 2))).flatten(1).any(1)  # fmt: skip
        torch.testing.assert_close(same[:, 0], alive.double())


def test_contrast_of_pairs_that_a_large_head_leaves_out(monkeypatch):
    net = net64()
    where = torch.rand(6, 2, generator=torch.Generator().manual_seed(7)) > 0.5
    results = []
    for large in (1 << 60, 0):
        monkeypatch.setattr(products, "LARGE", large)
        with ActivationTap(net, "4", "5") as tap:
            results.append(ContrastCamLoss(reduction="none")(net(X), tap, [0, 1], 2, where=where))
    torch.testing.assert_close(results[1], results[0])
    assert (results[0] != 0).any(0).all()


def test_contrast_of_maps_whose_squares_underflow():
    a = torch.rand(2, 3, 2, 2)
    weight = torch.rand(2, 3)
    found = []
    for scale in (1.0, 1e-25):
        scaled = (a * scale).requires_grad_()
        found.append(ContrastCamLoss()(scaled.mean((2, 3)) @ weight.t(), scaled, 0, 1))
    assert 0 < found[0] < 1
    torch.testing.assert_close(found[1], found[0])


def test_contrast_tells_labels_that_would_be_targets_of_every_image():
    net = net64()
    others = (LABELS + 1) % 5
    with ActivationTap(net, "4", "5") as tap:
        logits = net(X)
        with pytest.warns(UserWarning, match=r"tensors \[6\] are as many scores of every image"):
            ContrastCamLoss()(logits, tap, LABELS, others)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ContrastCamLoss()(logits, tap, LABELS, 2)
            ContrastCamLoss()(logits, tap, LABELS[:, None], others[:, None])


def test_contrast_of_maps_worked_out_by_hand():
    """Activations of one hot cell a channel; the head weighs channels."""
    a = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    a[0, 0, 0, 0], a[0, 1, 0, 1] = 2, 1
    a.requires_grad_()
    weight = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-1.0, -1.0], [0.0, 5.0]], dtype=torch.float64)
    logits = a.mean((2, 3)) @ weight.t()
    # maps before scaling: (2, 0), (6, 4), none, (0, 5)
    criterion = ContrastCamLoss(reduction="none")
    got = criterion(logits, a, [0, 0, 0, 1], [1, 3, 2, 1])
    wanted = torch.tensor([[12 / (2 * 52**0.5), 0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(got, wanted)
    assert (criterion.stats.valid, criterion.stats.dead) == (4, 1)


def test_dead_and_switched_off_pairs_cost_nothing_and_have_no_gradient():
    a = torch.rand(3, 2, 2, 2, dtype=torch.float64).requires_grad_()
    weight = torch.tensor([[1.0, 2.0], [-1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    criterion = ContrastCamLoss()
    loss = criterion(a.mean((2, 3)) @ weight.t(), a, 0, 1)
    assert (loss.item(), criterion.stats.dead) == (0, 3)
    assert not any(g.any() for g in torch.autograd.grad(loss, [a, weight]))
    where = torch.tensor([True, False, True])
    criterion(a.mean((2, 3)) @ weight.t(), a, 0, 1, where=where)
    assert (criterion.stats.valid, criterion.stats.dead) == (2, 2)

    values = torch.rand(3, 2, 2, 2, dtype=torch.float64)
    values[1] = torch.nan
    a = values.requires_grad_()
    weight = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    logits = a.mean((2, 3)) @ weight.t()
    loss = ContrastCamLoss()(logits, a, 0, 1, where=where)
    gradient, of_weight = torch.autograd.grad(loss, [a, weight], retain_graph=True)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert of_weight.isfinite().all()
    assert not gradient[1].any()
    assert gradient[0].any()
    assert ContrastCamLoss()(logits, a, 0, 1).isnan()  # on: it stays visible


def test_contrast_gradcheck():
    torch.manual_seed(0)
    weight = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    a = torch.rand(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)

    def loss(a, weight):
        logits = (a.square().mean((2, 3)) @ weight.t()).sin()
        return ContrastCamLoss(reduction="none")(logits, a, [0, 1], 2)

    assert torch.autograd.gradcheck(loss, (a, weight))


def test_contrast_wrong_calls_and_empty_batches():
    net = net64()
    with ActivationTap(net, "4", "5") as tap:
        logits = net(X)
        with pytest.raises(ValueError, match="others: expected 1 scores .* got 2"):
            ContrastCamLoss()(logits, tap, 0, [1, 2])
        with pytest.raises(ValueError, match="where: expected shape"):
            ContrastCamLoss()(logits, tap, 0, 1, where=torch.ones(2, dtype=torch.bool))
        for head in ("auto", "autograd"):
            loss = ContrastCamLoss(head=head)(net(X[:0]), tap, 0, [1])
            assert loss.item() == 0
            loss.backward()
    with pytest.raises(ValueError, match="head: expected one of"):
        ContrastCamLoss(head="best")

    def loss(a):
        return ContrastCamLoss()(a.mean((2, 3)), a, 0, 1)

    with pytest.raises(ValueError, match="ContrastCamLoss .* does not work inside torch.func"):
        torch.func.grad(loss)(torch.rand(2, 3, 4, 4, dtype=torch.float64))


# ---- the input's gradient ------------------------------------------------------------------------


def test_input_gradient_of_a_linear_score_by_hand():
    x = torch.ones(2, 1, 1, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64, requires_grad=True)
    logits = (x.flatten(1) * weight).sum(1, keepdim=True)
    regions = torch.tensor([[[1.0, 0.0, 0.5]], [[0.0, 0.0, 0.0]]], dtype=torch.float64)
    criterion = InputGradientLoss(reduction="none")
    loss = criterion(logits, x, regions)
    assert loss.tolist() == [[4 + 9 / 2], [0]]  # the second has no region
    assert (criterion.stats.valid, criterion.stats.dead) == (1, 0)
    (gradient,) = torch.autograd.grad(loss.sum(), weight)
    assert gradient.tolist() == [0, 4, -3]
    assert not InputGradientLoss()(logits * 0, x, regions).any()


@pytest.mark.parametrize("targets", [1, [1, 3]])
def test_input_gradient_in_a_network(targets):
    net = net64()
    x = X.clone().requires_grad_()
    index = torch.atleast_1d(torch.tensor(targets))
    masks = MASKS if len(index) == 1 else torch.stack([MASKS, ~MASKS], 1)
    logits = net(x)
    logits.retain_grad()
    d = plain_gradients(logits, x, index.expand(6, -1))
    logits.grad = None
    outside = ~masks.reshape(6, -1, 1, 12, 12)
    wanted = (d.square() * outside).sum((2, 3, 4))
    where = torch.tensor([True, False, True, True, False, True])
    got = InputGradientLoss()(logits, x, masks, targets, where=where)
    assert logits.grad is None
    torch.testing.assert_close(got, wanted[where].mean())
    assert_same_gradients(gradients_of(got, net), gradients_of(wanted[where].mean(), net))
    assert all(p.grad is None for p in net.parameters())
    assert x.grad is None


def test_input_gradient_gradcheck():
    torch.manual_seed(0)
    first = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    last = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)

    def loss(x, first, last):
        hidden = nn.functional.conv2d(x, first, padding=1).tanh().mean((2, 3))
        logits = (hidden @ last.t()).log_softmax(1)
        return InputGradientLoss(reduction="none")(logits, x, MASKS[:2, :5, 2:7].double(), [0, 3])

    assert torch.autograd.gradcheck(loss, (x, first, last))


@pytest.mark.parametrize("kind", ["contrast", "input gradient"])
def test_a_few_steps_lower_the_loss(kind):
    net = net64()
    optimizer = torch.optim.SGD(net.parameters(), 0.05 if kind == "contrast" else 0.5)
    x = X.clone().requires_grad_()
    tap = ActivationTap(net, "4", "5")
    losses = []
    for _ in range(15):
        with tap:
            logits = net(x)
            if kind == "contrast":
                loss = ContrastCamLoss()(F.margins(logits), tap, 1, 3)
            else:
                loss = InputGradientLoss()(logits, x, MASKS, 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_balance_measures_both_where_they_depend_on_the_activations():
    net = net64()
    x = X.clone().requires_grad_()
    balance = Balance()
    with ActivationTap(net, "4", "5") as tap:
        logits = net(x)
        label = nn.functional.cross_entropy(logits, LABELS)
        contrast = ContrastCamLoss()(logits, tap, 1, 3)
        sure = InputGradientLoss()(logits.log_softmax(1).sum(1, keepdim=True), x, MASKS, 0)
        total = balance(label, [(contrast, tap), (sure, tap)])
    assert (balance.ratio > 0).all()
    total.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_balance_says_that_a_relu_network_s_logits_give_it_nothing_to_measure():
    net = net64()
    x = X.clone().requires_grad_()
    balance = Balance()
    with ActivationTap(net, "4", "5") as tap:
        logits = net(x)
        loss = InputGradientLoss()(logits, x, MASKS, 1)
        assert loss > 0
        label = nn.functional.cross_entropy(logits, LABELS)
        with pytest.warns(UserWarning, match="guidance loss 0 has no gradient at '4' yet"):
            balance(label, loss, tap)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            balance(label, loss, tap)  # it says so once
            Balance()(label, 0 * loss, tap)  # nothing to say
    assert balance.ratio == 0


def test_input_gradient_wrong_calls_and_empty_batches():
    net, criterion = net64(), InputGradientLoss()
    with pytest.raises(ValueError, match="images: expected a tensor that requires grad; call"):
        criterion(net(X), X, MASKS, 1)
    x = X.clone().requires_grad_()
    with pytest.raises(ValueError, match="logits: do not depend on the images; pass"):
        criterion(net(X), x, MASKS, 1)
    with pytest.raises(ValueError, match="logits: expected the model's output with its graph"):
        criterion(net(x).detach(), x, MASKS, 1)
    with pytest.raises(ValueError, match=r"images: expected shape \[6,C,H,W\]"):
        criterion(net(x), x[:2], MASKS, 1)
    with pytest.raises(ValueError, match=r"regions: expected shape \[6,1,12,12\]"):
        criterion(net(x), x, MASKS[:, :6], 1)
    with pytest.raises(ValueError, match=r"regions: expected values in \[0, 1\]"):
        criterion(net(x), x, MASKS * 255.0, 1)
    with pytest.raises(ValueError, match="reduction: expected one of"):
        InputGradientLoss("best")
    empty = X[:0].clone().requires_grad_()
    loss = criterion(net(empty), empty, MASKS[:0], 1)
    assert loss.item() == 0
    loss.backward()
    assert criterion(net(x), x, MASKS, 1, where=torch.zeros(6, dtype=torch.bool)).item() == 0
    assert criterion.stats.valid == 0


def test_they_are_public():
    assert fastcam.ContrastCamLoss is ContrastCamLoss
    assert fastcam.InputGradientLoss is InputGradientLoss
