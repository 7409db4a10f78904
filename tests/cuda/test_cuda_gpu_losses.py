"""The loss in whole networks on a GPU, and what is built on it (``--device cuda``)."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from networks import (
    LAYERS,
    assert_same_gradients,
    gradients_of,
    grids,
    images,
    network,
    small_cnn,
)
from tiny_faces import MODEL, write_faces

from fastcam.cam.tap import ActivationTap
from fastcam.evaluation import evaluate
from fastcam.losses.cam import IoUCamLoss
from fastcam.models import AttentionNetwork, load_checkpoint
from fastcam.training import GuidanceConfig, TrainConfig, train

pytestmark = pytest.mark.cuda


def guided(net, x, regions, targets, layers=("4", "5"), autocast=None, **options):
    """The logits' own loss plus the map's, and the gradients of all parameters."""
    torch.manual_seed(0)  # the same dropout in every call on one device
    enabled = autocast is not None
    with (
        torch.autocast(x.device.type, autocast, enabled=enabled),
        ActivationTap(net, *layers) as tap,
    ):
        logits = net(x)
        loss = IoUCamLoss(sharpness=2.0, **options)(logits, tap, regions, targets)
    loss = loss + logits.to(loss.dtype).square().mean()
    return loss.detach(), gradients_of(loss, net)


def on_cpu(result):
    loss, grads = result
    return loss.cpu(), {name: g.cpu() for name, g in grads.items()}


@pytest.mark.parametrize("weight_grad", ["full", "detach"])
@pytest.mark.parametrize("head", ["auto", "autograd", "mean_dropout"])
@pytest.mark.parametrize("name", LAYERS)
def test_loss_and_gradients_are_the_cpus(name, head, weight_grad, device):
    net = network(name).eval()
    x, layers = images(name), LAYERS[name]
    with ActivationTap(net, *layers) as tap:
        net(x)
        regions = grids(3, 2, *tap.activations.shape[2:])
    options = {"layers": layers, "head": head, "weight_grad": weight_grad}
    wanted = guided(net, x, regions, [1, 2], **options)
    got = guided(copy.deepcopy(net).to(device), x.to(device), regions.to(device), [1, 2], **options)
    loss, grads = on_cpu(got)
    torch.testing.assert_close(loss, wanted[0], rtol=1e-9, atol=1e-9)
    assert_same_gradients(grads, wanted[1], 1e-7)


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_closed_form_knows_the_dropout_that_was_drawn(name, device):
    net = network(name).to(device)
    x, layers = images(name).to(device), LAYERS[name]
    with ActivationTap(net, *layers) as tap:
        net(x)
        regions = grids(3, 2, *tap.activations.shape[2:]).to(device)
    got, wanted = (
        guided(net, x, regions, [1, 2], layers=layers, head=head) for head in ("closed", "autograd")
    )
    torch.testing.assert_close(got[0], wanted[0])
    assert_same_gradients(got[1], wanted[1], 1e-7)


@pytest.mark.parametrize("head", ["auto", "autograd"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype, head, device):
    net = small_cnn().to(device).eval()
    x = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(3)).to(device)
    regions = grids(64, 2, 6, 6).to(device, torch.float32)
    wanted, wanted_grads = guided(net, x, regions, [1, 2], head=head)
    loss, grads = guided(net, x, regions, [1, 2], head=head, autocast=dtype)
    torch.testing.assert_close(loss, wanted, rtol=0.02, atol=0.02)
    one, other = (torch.cat([g.flatten() for g in d.values()]) for d in (grads, wanted_grads))
    assert torch.cosine_similarity(one, other, dim=0) > 0.98


@pytest.mark.parametrize("head", ["auto", "autograd", "mean_dropout"])
def test_a_step_never_waits_for_the_gpu(head, device):
    net = small_cnn().to(device)
    x = torch.randn(8, 3, 12, 12, device=device)
    regions = torch.rand(8, 6, 6, device=device)
    where = torch.rand(8, device=device) > 0.5
    criterion = IoUCamLoss(head=head)

    def step():
        with ActivationTap(net, "4", "5") as tap:
            logits = net(x)
            loss = criterion(logits, tap, regions, targets=1, where=where)
        (loss + logits.square().mean()).backward()

    step()
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert criterion.stats.valid == int(where.sum())


def test_channels_last_compiled(device):
    net = small_cnn().to(device, memory_format=torch.channels_last).eval()
    x = torch.randn(8, 3, 12, 12, device=device).to(memory_format=torch.channels_last)
    regions = torch.rand(8, 6, 6, device=device)
    wanted = guided(net, x, regions, 1)
    torch._dynamo.reset()
    compiled = copy.deepcopy(net)
    compiled[:4].compile()
    got = guided(compiled, x, regions, 1)
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-3, atol=1e-4)


def test_training_and_evaluation(device, tmp_path: Path):
    data = write_faces(tmp_path / "faces", 96)
    config = TrainConfig(
        str(data), model=MODEL, size=32, epochs=20, patience=0, batch_size=10, lr=0.05,
        device="cuda", workers=1,
    )  # fmt: skip
    start = train(config, tmp_path / "train").checkpoint
    guidance = GuidanceConfig((("Lips", "mouth"),), sharpness=4.0)
    tuning = dataclasses.replace(config, start=str(start), epochs=3, lr=0.01, guidance=guidance)
    checkpoint = load_checkpoint(train(tuning, tmp_path / "guided").checkpoint)
    where = {"attribute": "Lips", "region": "mouth"}
    on_gpu = evaluate(checkpoint, data, device=device, **where)["all"]
    assert next(checkpoint.model.parameters()).device.type == "cpu"
    on_cpu = evaluate(checkpoint, data, **where)["all"]
    assert on_gpu.accuracy == on_cpu.accuracy > 0.8
    assert abs(on_gpu.energy - on_cpu.energy) < 1e-3
    before = evaluate(load_checkpoint(start), data, device=device, **where)["all"]
    assert on_gpu.energy > before.energy


def test_attention_network_transforms(device):
    net = AttentionNetwork(5).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), net.transform(n=[1.0, 2.0], beta=[0.0, 0.5]):
        wanted = net(x)
        got = net.to(device)(x.to(device))
    torch.testing.assert_close(got.cpu(), wanted, rtol=1e-3, atol=1e-3)
