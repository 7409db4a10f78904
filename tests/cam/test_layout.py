"""``reshape``: outputs that are no [N,C,H,W], and what cannot be told apart."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from networks import assert_same_gradients, gradients_of, grids, small_cnn
from tiny_nets import NETS, tokens_as_pytorch_grad_cam_reads_them
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import fastcam
from fastcam import reference
from fastcam.cam import Tokens
from fastcam.cam.layout import channels_at
from fastcam.cam.tap import ActivationTap
from fastcam.losses.balance import Balance
from fastcam.losses.cam import IoUCamLoss
from fastcam.ops.library import is_channels_last


def images(size: int, width: int | None = None, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, 3, size, width or size, generator=generator, dtype=torch.float64)


# ---- which layer ---------------------------------------------------------------------------------


def test_a_module_is_as_good_as_its_name():
    net = small_cnn().double()
    tap = ActivationTap(net, net[4], net[5])
    assert (tap.layer, tap.gradient_at) == ("4", "5")
    with tap:
        net(images(12))
        assert tap.gradient_point.shape == (2, 8, 3, 3)
    assert ActivationTap(net, "4", net[4]).gradient_at is None
    with pytest.raises(ValueError, match="layer: .* got a Conv2d that is not in it"):
        ActivationTap(net, nn.Conv2d(3, 8, 3))
    with pytest.raises(ValueError, match="gradient_at: .* got the model itself"):
        ActivationTap(net, "4", net)


# ---- the readers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_maps_are_views_that_kernels_read_in_place(name):
    kind = NETS[name]
    with ActivationTap(net := kind.build(), kind.layer, reshape=kind.reshape) as tap:
        net(images(kind.size))
        assert tap.activations is tap.activations
        storage = tap.output.untyped_storage()
        assert tap.activations.untyped_storage().data_ptr() == storage.data_ptr()
        assert is_channels_last(tap.activations)


def test_tokens():
    tokens = torch.arange(2 * 7 * 3.0).view(2, 7, 3)
    for made in (Tokens(2, 3), Tokens(height=2), Tokens(width=3)):
        maps = made(tokens)
        assert maps.shape == (2, 3, 2, 3)
        assert torch.equal(maps[1, :, 1, 0], tokens[1, 1 + 3])
    assert torch.equal(Tokens(prefix=3)(tokens)[0, :, 0, 1], tokens[0, 4])
    assert Tokens(prefix=0, height=7)(tokens).shape == (2, 3, 7, 1)
    for wrong in (Tokens(), Tokens(2, 2), Tokens(height=4), Tokens(prefix=7), Tokens(7, 1)):
        with pytest.raises(ValueError, match=r"Tokens.* does not fit 7 tokens .* \(7 is 2"):
            wrong(tokens)
    with pytest.raises(ValueError, match=r"reads tokens \[N,L,C\], got shape \[1, 2, 3, 4\]"):
        Tokens()(torch.zeros(1, 2, 3, 4))


def test_a_function_of_the_user_s_does_what_the_name_does():
    kind, losses = NETS["vit"], []
    net = kind.build().eval()
    for reshape in ("tokens", Tokens(4, 4), tokens_as_pytorch_grad_cam_reads_them):
        with (
            ActivationTap(net, kind.layer, reshape=reshape) as tap,
            sdpa_kernel(SDPBackend.MATH),
        ):
            losses.append(IoUCamLoss()(net(images(32)), tap, grids(2, 2, 4, 4), [0, 2]))
    assert losses[0] > 0
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(
    ("reshape", "message"),
    [
        (lambda t: 2 * t[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2), "selects and reorders"),
        (lambda t: t[:, :1].unflatten(1, (1, 1)).permute(0, 3, 1, 2).expand(-1, -1, 4, 4), "repea"),
        (lambda t: (t - t.mean(0))[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2), "selects"),
        (lambda t: t[:, 1:], r"make \[N,C,H,W\] of \[2, 17, 12\], with .* got \[2, 16, 12\]"),
        (lambda t: t[:1, 1:].unflatten(1, (4, 4)), r"got \[1, 4, 4, 12\]"),
        (lambda t: None, "got NoneType"),
        ("nhwc", r"'nhwc' reads \[N,H,W,C\], got shape \[2, 17, 12\]"),
        (Tokens(prefix=5), r"\(17 is 4 x 4 and a prefix of 1\)"),
    ],
)
def test_a_reshape_that_does_not_fit(reshape, message):
    kind = NETS["vit"]
    with ActivationTap(net := kind.build(), kind.layer, reshape=reshape) as tap:
        net(images(32))
        with pytest.raises(ValueError, match=f"reshape: .*{message}"):
            _ = tap.activations


class Encoder(nn.Module):
    """A class token and 2 x 2 patches through an encoder, of [N,L,C] or [L,N,C]."""

    def __init__(self, batch_first):
        super().__init__()
        torch.manual_seed(0)
        self.along = int(batch_first)
        self.patches = nn.Conv2d(3, 6, 4, 4)
        self.first, self.second = (
            nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=batch_first) for _ in range(2)
        )
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2)
        tokens = tokens.permute(0, 2, 1) if self.along else tokens.permute(2, 0, 1)
        tokens = torch.cat([tokens.mean(self.along, keepdim=True), tokens], self.along)
        return self.head(self.second(self.first(tokens)).select(self.along, 0))


def of_lnc(output):
    return output[1:].permute(1, 2, 0).unflatten(2, (2, 2))


@pytest.mark.parametrize("batches", [(3, 5, 1), (5, 4, 2, 6), (1, 0)])
@pytest.mark.parametrize("targets", [[1], [0, 3]])
def test_tokens_whose_images_come_second(batches, targets):
    """Also as many images as tokens, or channels: maps, loss and gradients are autograd's."""
    net, seen = Encoder(False).double(), {}
    net.first.register_forward_hook(lambda m, a, out: seen.update(out=out))
    tap = ActivationTap(net, "first", reshape=of_lnc)
    for batch in batches:
        regions = grids(batch, len(targets), 2, 2)
        with tap, sdpa_kernel(SDPBackend.MATH):
            logits = net(images(8, batch=batch))
            output = seen["out"]
            d = [
                torch.autograd.grad(logits[:, t].sum(), output, create_graph=True) for t in targets
            ]
            d = torch.stack([of_lnc(of_target) for (of_target,) in d], 1)
            maps = fastcam.grad_cam_maps(logits, tap, targets)
            torch.testing.assert_close(maps, reference.grad_cam(of_lnc(output), d).detach())
            loss = IoUCamLoss(sharpness=2.0)(logits, tap, regions, targets)
            wanted = reference.cam_iou_loss(of_lnc(output), d, regions, sharpness=2.0)
            torch.testing.assert_close(loss, wanted)
            assert_same_gradients(gradients_of(loss, net), gradients_of(wanted, net))
        assert maps.any() or not batch


def test_balance_of_tokens_whose_images_come_second():
    """It is that of the same network with the images first, of which some are not guided."""
    ratios = []
    for batch_first in (True, False):
        net, balance = Encoder(batch_first).double(), Balance()
        tap = ActivationTap(net, "first", reshape="tokens" if batch_first else of_lnc)
        with tap, sdpa_kernel(SDPBackend.MATH):
            logits = net(images(8, batch=5))
            where = torch.tensor([True, False, False, True, True])
            loss = IoUCamLoss()(logits, tap, grids(5, 2, 2), 1, where=where)
            balance(logits.square().mean() * 0.01, loss, tap)
        ratios.append(balance.ratio)
    assert 0 < ratios[0] == pytest.approx(float(ratios[1]), rel=1e-6)


def test_bad_arguments():
    net = small_cnn()
    with pytest.raises(ValueError, match="reshape: expected one of 'tokens', 'nhwc', .* function"):
        ActivationTap(net, "4", reshape="hwc")
    with pytest.raises(TypeError, match="reshape: expected a name or a function .* got int"):
        ActivationTap(net, "4", reshape=3)
    with pytest.raises(ValueError, match="gradient_at: expected none beside reshape='nhwc'"):
        ActivationTap(net, "4", "5", "nhwc")
    assert ActivationTap(net, "4", "5", reshape="nchw").gradient_at == "5"


def test_tokens_without_a_reshape_are_refused_with_the_remedy():
    kind = NETS["vit"]
    with ActivationTap(net := kind.build(), kind.layer) as tap:
        net(images(32))
        with pytest.raises(ValueError, match=r"\[N,C,H,W\], got shape \[2, 17, 12\].*'tokens'"):
            _ = tap.activations


def test_a_volume_is_a_map_of_more_rows():
    """As docs/networks.md says: regions of volumes, made of masks, and maps back as volumes."""
    torch.manual_seed(0)
    trunk = nn.Conv3d(1, 6, 3, 2, 1).double()
    net = nn.Sequential(trunk, nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 4))
    net, images = net.double(), torch.randn(2, 1, 8, 10, 12, dtype=torch.float64)
    masks = (torch.rand(2, 1, 8, 10, 12) > 0.5).double()
    regions = nn.functional.adaptive_avg_pool3d(masks, (4, 5, 6))[:, 0].flatten(1, 2)
    tap = ActivationTap(net, "0", reshape=lambda output: output.flatten(2, 3))
    with tap:
        logits = net(images)
        got = fastcam.EnergyCamLoss()(logits, tap, regions, targets=1)
        maps = fastcam.grad_cam_maps(logits, tap, [1, 2]).unflatten(2, (4, 5))

    volumes = trunk(images)
    scores = net[1:](volumes)
    slopes = torch.autograd.grad(scores[:, 1].sum(), volumes, create_graph=True)[0]
    raw = (slopes.mean((2, 3, 4), keepdim=True) * volumes).sum(1).relu()
    torch.testing.assert_close(maps[:, 0], raw / raw.amax((1, 2, 3), keepdim=True))
    wanted = reference.cam_loss(volumes.flatten(2, 3), slopes.flatten(2, 3), regions)
    torch.testing.assert_close(got, wanted)
    assert_same_gradients(gradients_of(got, net), gradients_of(wanted, net))


def test_a_reshaped_map_has_no_closed_form():
    kind = NETS["swin"]
    with ActivationTap(net := kind.build(), kind.layer, reshape="nhwc") as tap:
        logits = net(images(16))
        with pytest.raises(ValueError, match="but the map is not the output of 'features' itself"):
            IoUCamLoss(head="closed")(logits, tap, grids(2, 4, 4), 0)


def test_copies_of_a_tap_keep_the_reshape():
    kind = NETS["vit"]
    tap = ActivationTap(kind.build(), kind.layer, reshape=Tokens(4, 4))
    for other in (copy.deepcopy(tap), pickle.loads(pickle.dumps(tap))):
        with other:
            other.model(images(32))
            assert other.activations.shape == (2, 12, 4, 4)
        assert "reshape=Tokens(height=4" in repr(other)


@pytest.mark.parametrize("targets", [[], [1], [1, 0, 3]])
@pytest.mark.parametrize("batch", [0, 2])
def test_empty_batches_and_targets(batch, targets):
    kind = NETS["swin"]
    net = kind.build()
    with ActivationTap(net, kind.layer, reshape=kind.reshape) as tap:
        maps = fastcam.grad_cam_maps(net(images(16, batch=batch)), tap, targets)
    assert maps.shape == (batch, len(targets), 4, 4)


def test_balance_and_a_frozen_trunk():
    kind = NETS["swin"]
    net = kind.build()
    net.features.requires_grad_(False)
    balance = Balance()
    with ActivationTap(net, kind.layer, reshape=kind.reshape) as tap:
        logits = net(images(16))
        loss = IoUCamLoss()(logits, tap, grids(2, 4, 4), 1)
        balance(logits.square().mean(), loss, tap).backward()
    assert float(balance.ratio) > 0
    assert net.head.weight.grad.any()
    assert all(p.grad is None for p in net.features.parameters())


def test_the_map_has_a_graph_wherever_it_is_asked_for():
    kind = NETS["swin"]
    with ActivationTap(net := kind.build(), kind.layer, reshape=kind.reshape) as tap:
        net(images(16))
        with torch.no_grad():
            first = tap.activations
        assert first.requires_grad and tap.activations is first


# ---- what cannot be told apart -------------------------------------------------------------------


def test_channels_last_without_a_reshape_is_refused():
    net = NETS["swin"].build()
    for layer in ("features", "norm", "features.0", "features.2"):
        for grad in (True, False):
            with ActivationTap(net, layer) as tap, torch.set_grad_enabled(grad):
                net(images(16))
                with pytest.raises(ValueError, match=rf"reshape: the output of '{layer}', shape "
                                   r"\[2, .*channels last .*give reshape='nhwc'"):  # fmt: skip
                    _ = tap.activations
    with ActivationTap(net, "features", reshape="nchw") as tap:
        net(images(16))
        assert tap.activations.shape == (2, 4, 4, 16)


@pytest.mark.parametrize("name", ["resnet", "convnext", "efficientnet", "vgg", "swin, permuted"])
@pytest.mark.parametrize("grad", [True, False])
def test_channels_first_is_seen(name, grad):
    kind = NETS[name]
    net = kind.build().eval()
    for size in ((kind.size, kind.size), (kind.size, 2 * kind.size)):
        with ActivationTap(net, kind.layer) as tap, torch.set_grad_enabled(grad):
            net(images(*size))
            assert tap.activations is tap.output
        with ActivationTap(net, kind.layer, reshape="nhwc") as tap:
            net(images(*size))
            with pytest.raises(ValueError, match="is .N,C,H,W., not 'nhwc'; leave reshape out"):
                _ = tap.activations


class Odd(nn.Module):
    """A stem, a function of its maps, and a head that takes what that returns."""

    def __init__(self, between, head):
        super().__init__()
        self.stem, self.layer, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Identity(), head
        self.between = between

    def forward(self, x):
        return self.head(self.layer(self.between(self.stem(x))))


class Own(torch.autograd.Function):
    """Something of which nothing is known."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad


def last(x):
    return x.permute(0, 2, 3, 1)


class BehindAPermutation(nn.Module):
    """A convolution of maps whose channels came last."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.conv(x.permute(0, 3, 1, 2))


MEAN = nn.Sequential(nn.Flatten(2), nn.Flatten(1))


@pytest.mark.parametrize(
    ("between", "head", "size", "axis"),
    [
        (lambda x: x, MEAN, (8, 8), 1),
        (last, MEAN, (8, 8), 3),
        (lambda x: (last(x) * 2).transpose(-1, 2).relu(), MEAN, (5, 7), 2),
        (lambda x: nn.functional.linear(last(x), torch.ones(8, 8)), MEAN, (8, 8), 3),
        (lambda x: nn.functional.linear(last(x), nn.Parameter(torch.ones(8, 8))), MEAN, (8, 8), 3),
        (lambda x: (x.flatten(2) @ torch.ones(64, 64)).view_as(x), MEAN, (8, 8), None),
        (lambda x: nn.functional.layer_norm(last(x), (8,)).roll(1, 1), MEAN, (5, 7), 3),
        (lambda x: torch.cat([x, x], 1)[:, 2:10] + x, MEAN, (8, 8), 1),
        (Own.apply, MEAN, (8, 8), None),
        (Own.apply, MEAN, (5, 7), None),
        (Own.apply, MEAN, (5, 5), 1),
        (lambda x: last(Own.apply(x)), MEAN, (5, 5), 3),
        (Own.apply, nn.Conv2d(8, 8, 3), (8, 8), 1),
        (Own.apply, BehindAPermutation(), (8, 8), None),
        (Own.apply, nn.Sequential(nn.ReLU(), nn.LayerNorm(8)), (8, 8), 3),
        (Own.apply, nn.Sequential(nn.Dropout(0.1), nn.AdaptiveAvgPool2d(1)), (5, 7), 1),
    ],
)
def test_which_axis_holds_the_channels(between, head, size, axis):
    net = Odd(between, head)
    with ActivationTap(net, "layer") as tap:
        net(torch.randn(2, 3, *size))
        assert channels_at(tap.trace, net.layer) == axis
        if axis == 1:
            assert tap.activations is tap.output
        elif axis != 3:
            with pytest.raises(ValueError, match="reshape: whether .* cannot be told; give resha"):
                _ = tap.activations


def test_a_sequence_is_of_the_kind_of_what_makes_its_output():
    net = nn.Sequential(nn.Sequential(nn.LayerNorm(8), nn.GELU()), MEAN)
    with ActivationTap(net, "0") as tap, torch.no_grad():
        net(torch.randn(2, 8, 8, 8))
        assert channels_at(tap.trace, net[0]) == 3
