"""``IoUCamLoss`` in the settings in which networks are trained."""

from __future__ import annotations

import pytest
import torch
from ddp_worker import WORLD, batch, run, step
from networks import assert_same_gradients, gradients_of, grids, images, network, small_cnn
from process_group import found_by_all
from torch import nn

from fastcam.cam.tap import ActivationTap
from fastcam.losses.balance import Balance
from fastcam.losses.cam import IoUCamLoss

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3))
HEADS = ("auto", "autograd")


def loss_and_gradients(net, x, regions, targets, **options):
    with ActivationTap(net, "4", "5") as tap:
        logits = net(x)
        loss = IoUCamLoss(sharpness=2.0, **options)(logits, tap, regions, targets)
    return loss.detach(), gradients_of(loss, net)


def similarity(got, wanted) -> float:
    a = torch.cat([t.flatten().double() for t in got.values()])
    b = torch.cat([t.flatten().double() for t in wanted.values()])
    return torch.cosine_similarity(a, b, dim=0).item()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("weight_grad", ["full", "detach"])
@pytest.mark.parametrize("inside", [True, False])
def test_autocast(head, weight_grad, inside):
    net = small_cnn().eval()
    wanted, wanted_grads = loss_and_gradients(
        net, X, grids(4, 2, 6, 6), [1, 2], weight_grad=weight_grad
    )
    criterion = IoUCamLoss(sharpness=2.0, head=head, weight_grad=weight_grad)
    with ActivationTap(net, "4", "5") as tap:
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(X)
            if inside:
                loss = criterion(logits, tap, grids(4, 2, 6, 6), [1, 2])
        if not inside:
            loss = criterion(logits.float(), tap, grids(4, 2, 6, 6), [1, 2])
        assert tap.activations.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), wanted, rtol=0.05, atol=0.05)
    got = gradients_of(loss, net)
    assert all(g.dtype == torch.float32 for g in got.values())
    assert similarity(got, wanted_grads) > 0.98


def test_a_detached_loss_under_autocast_takes_no_gradient_from_the_others():
    """Autocast keeps the weights it has cast: a cast made without a graph would be handed on."""
    net = small_cnn()
    with torch.autocast("cpu", torch.bfloat16), ActivationTap(net, "4", "5") as tap:
        IoUCamLoss(weight_grad="detach")(net(X), tap, grids(4, 6, 6), 1)
        loss = net(X).square().mean()
    assert all(g.abs().sum() > 0 for g in gradients_of(loss, net).values())


@pytest.mark.parametrize("head", HEADS)
def test_half_precision_models(head):
    net = small_cnn().eval()
    wanted, wanted_grads = loss_and_gradients(net, X, grids(4, 2, 6, 6), [1, 2])
    half = small_cnn().eval().bfloat16()
    got, got_grads = loss_and_gradients(half, X.bfloat16(), grids(4, 2, 6, 6), [1, 2], head=head)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.05)
    assert all(g.dtype == torch.bfloat16 for g in got_grads.values())
    assert similarity(got_grads, wanted_grads) > 0.98


@pytest.mark.parametrize("head", HEADS)
def test_grad_scaler(head):
    results = []
    for scale in (None, 1024.0):
        net = small_cnn().eval()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for _ in range(3):
            optimizer.zero_grad()
            with ActivationTap(net, "4", "5") as tap:
                logits = net(X)
                loss = logits.square().mean() + IoUCamLoss(head=head, sharpness=2.0)(
                    logits, tap, grids(4, 6, 6), 1
                )
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append([p.detach() for p in net.parameters()])
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["lightning.fabric", "lightning_fabric"])
def test_fabric_with_mixed_precision(name):
    """Its wrapper's outputs refuse every differentiation that is not ``fabric.backward``."""
    fabric = pytest.importorskip(name).Fabric(accelerator="cpu", precision="bf16-mixed")
    net = small_cnn().eval()
    wrapped = fabric.setup(net)
    tap, balance = ActivationTap(net, "4", "5"), Balance()
    criterion = IoUCamLoss(sharpness=2.0)

    def plain(images):
        with fabric.autocast():
            return net(images).float()

    def losses(forward):
        logits = forward(X)
        guidance = criterion(logits / 2, tap, grids(4, 2, 6, 6), [1, 2])
        return logits.square().mean(), guidance, tap

    with tap:
        total = balance(*losses(wrapped))
    assert balance.measured and balance.ratio > 0
    fabric.backward(total)
    got = {name: p.grad.clone() for name, p in net.named_parameters()}
    with pytest.raises(RuntimeError, match="fabric.backward"):  # as ever, for the user
        wrapped(X).sum().backward()

    net.zero_grad()
    with tap:
        balance.weighed(*losses(plain)).backward()
    wanted = {name: p.grad for name, p in net.named_parameters()}
    torch.testing.assert_close(got, wanted, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_gradient_accumulation(head):
    regions = grids(4, 6, 6)
    whole = small_cnn().double().eval()
    x = X.double()
    _, wanted = loss_and_gradients(whole, x, regions, 1, head=head)
    net = small_cnn().double().eval()
    criterion = IoUCamLoss(sharpness=2.0, head=head)
    with ActivationTap(net, "4", "5") as tap:  # one entry, several forwards and backwards
        for part, grid in zip(x.chunk(2), regions.chunk(2), strict=True):
            (criterion(net(part), tap, grid, 1) / 2).backward()
    got = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in net.named_parameters()}
    assert_same_gradients(got, wanted)


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
@pytest.mark.parametrize("head", ["closed", "autograd"])
def test_channels_last(name, head):
    results = []
    dtype = torch.float64 if name == "alexnet" else torch.float32  # slow where it is both
    for memory_format in (torch.contiguous_format, torch.channels_last):
        net = network(name).to(dtype=dtype, memory_format=memory_format).eval()
        x = images(name).to(dtype=dtype, memory_format=memory_format)
        layer, at = ("features.11", "features.12") if name == "alexnet" else ("layer4", None)
        with ActivationTap(net, layer, at) as tap:
            logits = net(x)
            maps = tap.activations
            loss = IoUCamLoss(head=head, sharpness=2.0)(
                logits, tap, grids(3, 2, *maps.shape[2:]), [1, 2]
            )
        assert maps.is_contiguous(memory_format=memory_format)
        results.append((loss.detach(), gradients_of(loss, net)))
    torch.testing.assert_close(results[1][0], results[0][0])
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    assert_same_gradients(results[1][1], results[0][1], tolerance)


@pytest.mark.parametrize("weight_grad", ["full", "detach"])
def test_the_loss_directs_attention(weight_grad):
    """Descent on the loss alone moves the maps into the region."""
    net = small_cnn().eval()
    regions = torch.zeros(4, 6, 6)
    regions[:, 1:4, 2:5] = 1
    criterion = IoUCamLoss(sharpness=2.0, weight_grad=weight_grad)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    history = []
    for _ in range(60):
        optimizer.zero_grad()
        with ActivationTap(net, "4", "5") as tap:
            loss = criterion(net(X), tap, regions, 1)
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert criterion.stats.valid == 4
    assert criterion.stats.dead == 0
    assert history[-1] < 0.6 * history[0]


@pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)
def test_two_processes_equal_one(tmp_path):
    ranks = found_by_all(run, WORLD, tmp_path)
    assert len(ranks[0]) == 8
    for (head, weight_grad, unused), (loss, grads) in ranks[0].items():
        net: nn.Module = small_cnn().double().eval()
        wanted = step(net, "", *batch(), head, weight_grad)
        other, other_grads = ranks[1][head, weight_grad, unused]
        torch.testing.assert_close((loss + other) / 2, wanted)
        for mine, theirs, p in zip(grads, other_grads, net.parameters(), strict=True):
            assert torch.equal(mine, theirs)
            torch.testing.assert_close(mine, p.grad)
