"""Every loss of the map as a module in a network: its value, a step that moves the map, Balance."""

from __future__ import annotations

import copy
import pickle
from typing import get_args

import pytest
import torch
from networks import gradients_of, grids, small_cnn

import fastcam
from fastcam import ActivationTap, Balance, reference
from fastcam.losses.cam import CAM_LOSSES, CamLoss, CamLossName

X = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
CASES = {name: (name, {}) for name in CAM_LOSSES}
CASES |= {f"{name}, eps": (name, {"eps": 0.2}) for name in ("iou", "ppce")}
CASES |= {f"{name}, away": (name, {"away": True}) for name in ("energy", "outside")}
each = pytest.mark.parametrize(("name", "options"), CASES.values(), ids=CASES)


def guided(net, criterion, regions, targets=1):
    with ActivationTap(net, "4", "5") as tap:
        logits = net(X)
        return criterion(logits, tap, regions, targets), logits, tap


def test_the_registry_is_complete():
    assert tuple(CAM_LOSSES) == get_args(CamLossName)
    for name, kind in CAM_LOSSES.items():
        assert kind().map_loss().name == name
        assert getattr(fastcam, kind.__name__) is kind and kind.__name__ in fastcam.__all__


@each
@pytest.mark.parametrize("weight_grad", ["full", "detach"])
@pytest.mark.parametrize("head", ["auto", "autograd"])
def test_it_is_the_reference_of_the_network_s_map(name, options, weight_grad, head):
    net, regions = small_cnn().double().eval(), grids(6, 2, 6, 6)
    criterion = CAM_LOSSES[name](weight_grad=weight_grad, head=head, **options)
    got, _, _ = guided(net, criterion, regions, [1, 2])

    maps = net[:5](X)
    logits = net[5:](maps)
    gradients = [
        torch.autograd.grad(logits[:, t].sum(), maps, create_graph=True)[0] for t in (1, 2)
    ]
    stacked = torch.stack(gradients, 1)
    if weight_grad == "detach":
        stacked = stacked.detach()
    wanted = reference.cam_loss(maps, stacked, regions, loss=name, **options)
    torch.testing.assert_close(got, wanted)
    wanted_grads = gradients_of(wanted, net)
    for parameter, grad in gradients_of(got, net).items():
        torch.testing.assert_close(grad, wanted_grads[parameter], rtol=1e-6, atol=1e-10)
    assert criterion.stats.valid == 12


@each
def test_its_pairs_are_known_before_a_forward(name, options):
    """Without a region, with all of the map, without weight in it, and switched off."""
    net, regions = small_cnn().double().eval(), grids(6, 2, 6, 6)
    regions[0, 0], regions[1, 1] = 0, 1
    weights = torch.ones_like(regions)
    weights[2, 0] = (regions[2, 0] == 0).double()
    where = torch.ones(6, 2, dtype=torch.bool)
    where[3] = False
    criterion = CAM_LOSSES[name](**options)
    with ActivationTap(net, "4", "5") as tap:
        logits = net(X)
        criterion(logits, tap, regions, [1, 2], cell_weights=weights, where=where)
    found = criterion.valid_pairs(regions, weights, where)
    assert found.dtype == torch.bool and found.shape == (6, 2)
    assert int(found.sum()) == criterion.stats.valid < 10
    assert int(criterion.valid_pairs(regions[:, 0]).sum()) == 5


@each
def test_steps_move_the_map(name, options):
    net = small_cnn().double().eval()
    regions = torch.zeros(6, 6, 6)
    regions[:, 1:4, 2:5] = 1
    criterion = CAM_LOSSES[name](**options)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)

    def share() -> float:  # of the maps inside the region
        a = net[:5](X)
        d = torch.autograd.grad(net[5:](a)[:, 1].sum(), a)[0]
        x = reference.grad_cam(a, d)[:, 0].detach()
        return ((x * regions).sum() / x.sum()).item()

    before, (first, _, _) = share(), guided(net, criterion, regions)
    for _ in range(15):
        optimizer.zero_grad()
        loss, _, _ = guided(net, criterion, regions)
        loss.backward()
        optimizer.step()
    last, _, _ = guided(net, criterion, regions)
    assert last < first
    if options.get("away"):
        assert share() < before
    elif name in ("iou", "energy"):
        assert share() > before


@each
def test_under_balance_it_draws_as_hard_as_the_labels(name, options):
    net = small_cnn().double().eval()
    balance = Balance(pull=0.5)
    with ActivationTap(net, "4", "5") as tap:
        logits = net(X)
        label = logits.square().mean()
        guidance = CAM_LOSSES[name](**options)(logits, tap, grids(6, 6, 6), 1)
        total = balance(label, guidance, tap)
        a = tap.activations
    assert balance.ratio > 0

    def norm(loss, rows=slice(None)):
        return torch.autograd.grad(loss, a, retain_graph=True)[0][rows].norm()

    (drawn,) = torch.autograd.grad(guidance, a, retain_graph=True)
    most = 0.5 * norm(label, drawn.flatten(1).any(1))
    pulled = norm(total - label)
    assert 0 < pulled <= most * (1 + 1e-5)  # less where the head's weights decide
    total.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: fastcam.EnergyCamLoss(away="no"), TypeError, "away: expected True or False"),
        (lambda: fastcam.OutsideCamLoss(away=1), TypeError, "away: expected True or False"),
        (lambda: fastcam.PPCECamLoss(eps=-1), ValueError, "eps: expected a number finite and > 0"),
        (lambda: fastcam.L1CamLoss(head="open"), ValueError, "head: expected one of"),
        (lambda: fastcam.CenterCamLoss(weight_grad="no"), ValueError, "weight_grad: expected"),
        (lambda: fastcam.EnergyCamLoss(reduction="avg"), ValueError, "reduction: expected"),
        (lambda: fastcam.PPCECamLoss(max_pair_pull=0), ValueError, "max_pair_pull: expected"),
        (lambda: CamLoss().map_loss(), NotImplementedError, "CamLoss has no map_loss"),
    ],
)
def test_options_that_do_not_fit(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_changed_option_counts_and_copies_keep_it():
    net, regions = small_cnn().double().eval(), grids(6, 6, 6)
    criterion = fastcam.EnergyCamLoss()
    outside, _, _ = guided(net, criterion, regions)
    criterion.away = True
    for same in (criterion, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        inside, _, _ = guided(net, same, regions)
        torch.testing.assert_close(inside + outside, torch.ones_like(inside))
    assert repr(fastcam.PPCECamLoss(0.1)) == (
        "PPCECamLoss(eps=0.1, weight_grad='full', head='auto', reduction='mean')"
    )
    assert repr(fastcam.CenterCamLoss(max_pair_pull=1.0)).endswith("max_pair_pull=1.0)")
    assert repr(fastcam.L1CamLoss()) == (
        "L1CamLoss(weight_grad='full', head='auto', reduction='mean')"
    )


class Image(torch.Tensor):
    """As fastai's TensorImage: what is computed of one is one."""


class Mask(torch.Tensor):
    """As fastai's TensorMask: torch puts it together with no other class of tensors."""


def test_images_and_masks_of_classes_that_do_not_know_each_other():
    net, criterion = small_cnn().double().eval(), fastcam.EnergyCamLoss()
    given = {
        "regions": grids(6, 6, 6),
        "cell_weights": torch.rand(6, 6, dtype=torch.float64),
        "where": torch.arange(6) > 0,
        "signs": torch.ones(6, dtype=torch.float64),
    }

    def loss(images, given):
        with ActivationTap(net, "4", "5") as tap:
            return criterion(net(images), tap, targets=1, **given)

    got = loss(X.as_subclass(Image), {name: t.as_subclass(Mask) for name, t in given.items()})
    wanted = loss(X, given)
    assert got.item() == pytest.approx(wanted.item())
    got, wanted = gradients_of(got, net), gradients_of(wanted, net)
    torch.testing.assert_close(got, wanted)
    images = X.as_subclass(Image).requires_grad_()
    region = torch.ones(6, 12, 12).tril().as_subclass(Mask)
    assert fastcam.InputGradientLoss()(net(images), images, region, targets=1) > 0
