"""Guided steps of every kind of network: map, loss and gradients are plain autograd's."""

from __future__ import annotations

import pytest
import torch
from networks import (
    assert_same_gradients,
    gradients_of,
    grids,
    plain_gradients,
    plain_loss,
)
from tiny_nets import NETS
from torch.nn.attention import SDPBackend, sdpa_kernel

import fastcam
from fastcam import reference
from fastcam.cam.tap import ActivationTap
from fastcam.losses.cam import IoUCamLoss

TARGETS = torch.tensor([1, 4])


@pytest.mark.parametrize("name", NETS)
def test_guided_steps_are_those_of_plain_autograd(name):
    kind = NETS[name]
    net = kind.build()
    seen = {}
    net.get_submodule(kind.layer).register_forward_hook(lambda m, a, out: seen.update(out=out))
    tap = ActivationTap(net, kind.layer, kind.gradient_at, reshape=kind.reshape)
    criterion = IoUCamLoss(sharpness=2.0)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    index = TARGETS.expand(3, -1)
    generator = torch.Generator().manual_seed(1)
    moved = 0.0
    for step in range(3):
        images = torch.randn(3, 3, kind.size, kind.size, dtype=torch.float64, generator=generator)
        with tap, sdpa_kernel(SDPBackend.MATH):
            logits = net(images)
            # By itself: the output, turned as anyone would, and one differentiation a target.
            output, maps = seen["out"], kind.read(seen["out"])
            batch, cells = len(images), maps.shape[2:]
            regions = grids(batch, 2, *cells, seed=step)
            d = plain_gradients(logits, output, index)
            d = torch.stack([kind.read(d[:, t]) for t in range(2)], 1)
            wanted = reference.cam_iou_loss(maps, d, regions, sharpness=2.0)
            expected = gradients_of(wanted, net)

            assert torch.equal(tap.activations, maps)
            got = fastcam.grad_cam_maps(logits, tap, TARGETS)
            torch.testing.assert_close(got, reference.grad_cam(maps, d).detach())
            assert got.any(), "every map is dead"
            loss = criterion(logits, tap, regions, TARGETS)
            torch.testing.assert_close(loss, wanted)
            assert_same_gradients(gradients_of(loss, net), expected)
            total = logits.square().mean() + loss
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        moved += float(loss.detach())
    assert moved > 0
    assert sum(bool(g.any()) for g in expected.values()) > len(expected) // 2


def test_dead_maps_and_no_valid_pair():
    """A ReLU's output under a score with negative weights has no positive cell."""
    net = NETS["resnet"].build()
    with torch.no_grad():
        net.fc.weight[4] = -net.fc.weight[4].abs()
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    regions, index = grids(3, 2, 2, 2), TARGETS.expand(3, -1)
    criterion = IoUCamLoss()
    for where in (None, torch.zeros(3, 2, dtype=torch.bool)):
        with ActivationTap(net, "layer4") as tap:
            logits = net(images)
            loss = criterion(logits, tap, regions, TARGETS, where=where)
            wanted = plain_loss(logits, tap.activations, regions, index, where=where)
            torch.testing.assert_close(loss, wanted)
            assert_same_gradients(gradients_of(loss, net), gradients_of(wanted, net))
        valid = int((regions > 0).flatten(2).any(-1).sum()) if where is None else 0
        assert criterion.stats.valid == valid
        assert criterion.stats.dead == (valid and int((regions[:, 1] > 0).flatten(1).any(1).sum()))
    assert loss == 0
