"""``IoUCamLoss`` against a plain PyTorch Grad-CAM loss, and its arguments."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from networks import (
    CLASSES,
    LAYERS,
    assert_same_gradients,
    gradients_of,
    grids,
    images,
    network,
    plain_loss,
    small_cnn,
)
from torch import nn

from fastcam import functional
from fastcam.cam.tap import ActivationTap
from fastcam.losses.cam import CamStats, IoUCamLoss

BATCH = 3
EACH = [[1, 4], [0, 2], [3, 3]]  # targets of each image

# targets, regions without H and W, the [N,T] that they mean
FORMS = {
    "int": (2, (BATCH,), [[2]] * 3),
    "int, one region axis": (np.int64(2), (BATCH, 1), [[2]] * 3),
    "one per image": (torch.tensor([4, 0, 1]), (BATCH,), [[4], [0], [1]]),
    "shared": ([4, 1], (BATCH, 2), [[4, 1]] * 3),
    "shared, as many as images": (torch.tensor([4, 0, 1]), (BATCH, 3), [[4, 0, 1]] * 3),
    "each": (torch.tensor(EACH, dtype=torch.int32), (BATCH, 2), EACH),
    "each, one region": (np.array(EACH), (BATCH,), EACH),
    "each, one": (torch.tensor([[4], [0], [1]]), (BATCH,), [[4], [0], [1]]),
    "all": (None, (BATCH, CLASSES), [list(range(CLASSES))] * 3),
}


@pytest.fixture(scope="module")
def nets():
    return {name: network(name) for name in LAYERS}


def run(net, name, criterion, targets, regions, at=True, **options):
    layer, gradient_at = LAYERS[name]
    with ActivationTap(net, layer, gradient_at if at else None) as tap:
        logits = net(images(name))
        return criterion(logits, tap, regions, targets, **options), logits, tap.activations


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("weight_grad", ["full", "detach"])
@pytest.mark.parametrize("head", ["auto", "autograd"])
def test_value_and_gradients_are_those_of_plain_pytorch(nets, name, training, weight_grad, head):
    net = nets[name].train(training)
    regions = grids(
        BATCH, 2, *((5, 5) if name == "alexnet" else (3, 3) if name == "vgg11" else (2, 2))
    )
    criterion = IoUCamLoss(sharpness=3.0, weight_grad=weight_grad, head=head)
    loss, logits, activations = run(net, name, criterion, torch.tensor(EACH), regions)
    wanted = plain_loss(
        logits, activations, regions, torch.tensor(EACH), weight_grad == "detach", sharpness=3.0
    )
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, wanted, rtol=1e-10, atol=1e-10)
    got = gradients_of(loss, net)
    assert_same_gradients(got, gradients_of(wanted, net))

    # The map alone teaches everything before the layer and, with "full", the head's weights.
    assert criterion.stats.dead < criterion.stats.valid == 6
    for parameter, gradient in got.items():
        head_of_net = parameter.startswith(("classifier", "fc"))
        learns = not head_of_net or (weight_grad == "full" and parameter.endswith("weight"))
        assert bool(gradient.abs().sum() > 0) == learns, parameter


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head", ["closed", "autograd"])
def test_every_form_of_targets(nets, form, head):
    targets, shape, meant = FORMS[form]
    net = nets["alexnet"].train()
    regions = grids(*shape, 5, 5)
    criterion = IoUCamLoss(sharpness=2.0, head=head, reduction="none")
    loss, logits, activations = run(net, "alexnet", criterion, targets, regions)
    index = torch.tensor(meant)
    assert loss.shape == index.shape
    full = (
        regions.unsqueeze(1).expand(-1, index.shape[1], -1, -1) if regions.dim() == 3 else regions
    )
    wanted = plain_loss(logits, activations, full, index, sharpness=2.0, reduction="none")
    torch.testing.assert_close(loss, wanted, rtol=1e-10, atol=1e-10)
    assert_same_gradients(gradients_of(loss.sum(), net), gradients_of(wanted.sum(), net))


def test_one_column_of_logits_needs_no_targets():
    net = small_cnn(classes=1).double()
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    with ActivationTap(net, "4") as tap:
        logits = net(x)
        all_of_it = IoUCamLoss()(logits, tap, grids(4, 6, 6))
        assert torch.equal(all_of_it, IoUCamLoss()(logits, tap, grids(4, 6, 6), 0))


@pytest.mark.parametrize(
    ("targets", "shape", "error", "match"),
    [
        (CLASSES, (3,), ValueError, r"targets: expected indices in \[0, 4\] .* got 5"),
        (-1, (3,), ValueError, "got -1"),
        ([0, 7], (3, 2), ValueError, "got 7"),
        (torch.tensor([[0], [1], [-2]]), (3,), ValueError, "got -2"),
        (
            2,
            (3, 2),
            ValueError,
            r"regions: expected shape \[3,1,H,W\] \(one target\), got \[3, 2, 5, 5\]",
        ),
        (
            None,
            (3, 4),
            ValueError,
            r"regions: expected shape \[3,5,H,W\] \(targets=None means all K\)",
        ),
        (None, (3,), ValueError, r"targets=None means all K"),
        ([1, 2], (3,), ValueError, r"targets: expected 3 indices \(one per image, .*\), got 2"),
        ([1, 2, 3], (3, 2), ValueError, r"targets: expected 2 indices \(T of regions .*\), got 3"),
        (
            torch.zeros(2, 2, dtype=torch.long),
            (3, 2),
            ValueError,
            r"targets: expected shape \[3,2\]",
        ),
        (torch.zeros(2, 2, dtype=torch.long), (3,), ValueError, r"targets: expected shape \[3,T\]"),
        (torch.zeros(3, 3, dtype=torch.long), (3, 2), ValueError, r"got \[3, 3\]"),
        (torch.zeros(3, 2, 1, dtype=torch.long), (3, 2), ValueError, r"got shape \[3, 2, 1\]"),
        ([[1, 2], [3]], (3, 2), ValueError, "ragged"),
        (1.0, (3,), TypeError, "targets: expected None, an int, .* got float"),
        (True, (3,), TypeError, "got bool"),
        ("mouth", (3,), TypeError, "got str"),
        ([0.5, 1.5], (3, 2), TypeError, "targets: expected integer indices, got float64"),
        (
            torch.tensor([True, False]),
            (3, 2),
            TypeError,
            "targets: expected integer indices, got torch.bool",
        ),
        (
            torch.tensor([1, 2, 0]),
            (3, 1),
            ValueError,
            r"targets: expected 1 indices .*, got 3; one per image is targets\[:, None\]",
        ),
        (1, (2,), ValueError, r"regions: expected 3 images \(N of logits\), got shape \[2, 5, 5\]"),
        (1, (3, 1, 1), ValueError, r"regions: expected shape \[N,H,W\] or \[N,T,H,W\]"),
    ],
)
def test_bad_targets(nets, targets, shape, error, match):
    with pytest.raises(error, match=match):
        run(nets["alexnet"], "alexnet", IoUCamLoss(), targets, grids(*shape, 5, 5))


def test_labels_in_place_of_targets_are_told(nets):
    labels = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1]])
    with pytest.warns(UserWarning, match=r"targets: \[3, 5\] of 0 and 1 alone look like labels"):
        run(nets["alexnet"], "alexnet", IoUCamLoss(), labels, grids(3, 5, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for targets, shape in ((labels[:, :4], (3,)), (labels * 2, (3,)), (None, (3, CLASSES))):
            run(nets["alexnet"], "alexnet", IoUCamLoss(), targets, grids(*shape, 5, 5))


@pytest.mark.parametrize("weight_grad", ["full", "detach"])
def test_a_switched_off_pair_may_have_a_sign_that_is_none(weight_grad):
    """As labels that are NaN where nobody knows them make it."""
    net = small_cnn().double().eval()
    x, regions = torch.randn(4, 3, 12, 12).double(), grids(4, 6, 6)
    labels = torch.tensor([1.0, torch.nan, 0.0, 1.0])
    on = ~labels.isnan()
    found = []
    for signs in (2 * labels - 1, (2 * labels - 1).nan_to_num(1)):
        with ActivationTap(net, "4", "5") as tap:
            criterion = IoUCamLoss(weight_grad=weight_grad)
            loss = criterion(net(x), tap, regions, 1, where=on, signs=signs)
        found.append(gradients_of(loss, net))
    assert_same_gradients(*found)
    assert all(bool(g.isfinite().all()) for g in found[0].values())


@pytest.mark.parametrize("wrong", [0.0, 0.5, torch.nan])
def test_signs_are_plus_and_minus_one(wrong):
    net = small_cnn()
    with ActivationTap(net, "4") as tap:
        logits = net(torch.randn(2, 3, 12, 12))
        with pytest.raises(ValueError, match=rf"signs: expected \+1 or -1 \(.*\), got {wrong:g}"):
            IoUCamLoss()(logits, tap, grids(2, 6, 6), 1, signs=torch.tensor([1.0, wrong]))


def test_other_bad_arguments(nets):
    net, criterion, regions = nets["alexnet"], IoUCamLoss(), grids(3, 5, 5)
    with pytest.raises(TypeError, match=r"regions: expected a torch.Tensor, got list"):
        run(net, "alexnet", criterion, 1, regions.tolist())
    with pytest.raises(ValueError, match=r"\[3,1,5,5\] or .*from_masks\(masks, \(5, 5\)\)"):
        run(net, "alexnet", criterion, 1, grids(3, 6, 5))
    with pytest.raises(TypeError, match="where: expected dtype bool"):
        run(net, "alexnet", criterion, 1, regions, where=torch.ones(3))
    logits = torch.zeros(3, 5, requires_grad=True)
    maps = torch.zeros(3, 2, 5, 5, requires_grad=True)
    with pytest.raises(
        TypeError, match=r"activations: expected an ActivationTap or a torch.Tensor"
    ):
        criterion(logits, "features.11", regions, 1)
    with pytest.raises(
        ValueError, match=r"activations: expected shape \[3,C,H,W\] .* got \[2, 2, 5, 5\]"
    ):
        criterion(logits, maps[:2], regions, 1)
    with pytest.raises(
        ValueError, match="logits: do not depend on the activations.* tap the layer"
    ):
        criterion(logits, maps, regions, 1)
    with pytest.raises(ValueError, match="activations: .* does not require grad"):
        criterion(logits, maps.detach(), regions, 1)
    with pytest.raises(ValueError, match=r"logits: .* does not require grad"):
        criterion(logits.detach(), maps, regions, 1)
    with pytest.raises(TypeError, match=r"logits: expected a torch.Tensor, got tuple"):
        criterion((logits,), maps, regions, 1)
    with pytest.raises(TypeError, match="logits: expected a floating-point tensor"):
        criterion(torch.zeros(3, 5, dtype=torch.long), maps, regions, 1)
    with pytest.raises(ValueError, match=r"logits: expected shape \[N,K\], got \[3\]"):
        criterion(logits[:, 0], maps, regions, 1)


def test_logits_of_an_earlier_forward_are_an_error(nets):
    net = nets["alexnet"]
    with ActivationTap(net, "features.11") as tap:
        old = net(images("alexnet"))
        net(images("alexnet"))
        with pytest.raises(ValueError, match="the last forward wins"):
            IoUCamLoss()(old, tap, grids(3, 5, 5), 1)


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"threshold": 1.0}, r"threshold: expected a number in \(0, 1\), got 1.0"),
        ({"sharpness": 0.5}, "sharpness: expected a number finite and >= 1"),
        ({"binarize": "soft"}, "binarize: expected one of 'tone'"),
        ({"weight_grad": "none"}, "weight_grad: expected one of 'full', 'detach', got 'none'"),
        ({"head": "open"}, "head: expected one of 'auto', 'closed', 'autograd', 'mean_dropout'"),
        ({"reduction": "average"}, "reduction: expected one of"),
    ],
)
def test_bad_options(option, match):
    with pytest.raises(ValueError, match=match):
        IoUCamLoss(**option)
    criterion = IoUCamLoss()  # the same when it is changed later, as a warm-up does
    for name, value in option.items():
        setattr(criterion, name, value)
    maps = torch.rand(2, 3, 4, 4, requires_grad=True)
    with pytest.raises(ValueError, match=match):
        criterion(maps.mean((2, 3)), maps, grids(2, 4, 4), 1)


@pytest.mark.parametrize("weight_grad", ["full", "detach"])
@pytest.mark.parametrize("targets", [1, [2, 0]])
def test_plain_tensor_in_place_of_the_tap(weight_grad, targets):
    net = small_cnn().double()
    trunk, head = net[:5], net[5:]
    maps = trunk(torch.randn(4, 3, 12, 12, dtype=torch.float64))
    logits = head(maps)
    index = torch.tensor([[targets] if isinstance(targets, int) else targets] * 4)
    regions = grids(4, index.shape[1], 6, 6)
    options = {"where": index != 0, "cell_weights": grids(6, 6, seed=5)}
    loss = IoUCamLoss(weight_grad=weight_grad)(logits, maps, regions, targets, **options)
    wanted = plain_loss(logits, maps, regions, index, weight_grad == "detach", **options)
    torch.testing.assert_close(loss, wanted)
    assert_same_gradients(gradients_of(loss, net), gradients_of(wanted, net))
    for head_option in ("closed", "mean_dropout"):
        with pytest.raises(ValueError, match="only a tap knows"):
            IoUCamLoss(head=head_option)(logits, maps, regions, targets)


class Smooth(nn.Module):
    """A head that is not piecewise linear, batch statistics included: D depends on A."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.out = nn.Conv2d(6, CLASSES, 2)

    def forward(self, x):
        maps = nn.functional.softplus(self.body(x))
        return self.out(nn.functional.silu(self.norm(nn.functional.max_pool2d(maps, 2)))).mean(
            (2, 3)
        )


def test_any_other_head_goes_by_autograd():
    torch.manual_seed(1)
    net = Smooth().double()
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    with ActivationTap(net, "body") as tap:
        logits = net(x)
        regions = grids(4, 3, 10, 10)
        loss = IoUCamLoss(sharpness=2.0)(logits, tap, regions, [0, 3, 4])
        wanted = plain_loss(
            logits, tap.activations, regions, torch.tensor([[0, 3, 4]] * 4), sharpness=2.0
        )
        torch.testing.assert_close(loss, wanted)
        assert_same_gradients(gradients_of(loss, net), gradients_of(wanted, net))


class NoBatchingRule(torch.autograd.Function):
    """A custom head without vmap support, whose backward is differentiable."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        if torch._C._functorch.is_batchedtensor(grad) or type(grad.sum().tolist()) is not float:
            raise RuntimeError("no batches here")
        return 2 * grad * ctx.saved_tensors[0]


def test_heads_that_cannot_be_batched_are_looped_over():
    torch.manual_seed(1)
    maps = torch.rand(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(3, CLASSES, dtype=torch.float64, requires_grad=True)
    logits = NoBatchingRule.apply(maps).mean((2, 3)) @ weight
    regions = grids(4, 2, 5, 5)
    loss = IoUCamLoss()(logits, maps, regions, [1, 2])
    wanted = plain_loss(logits, maps, regions, torch.tensor([[1, 2]] * 4))
    torch.testing.assert_close(loss, wanted)
    got = torch.autograd.grad(loss, (maps, weight))
    torch.testing.assert_close(got, torch.autograd.grad(wanted, (maps, weight)))


def test_stats_count_valid_and_dead_maps():
    net = small_cnn().double()
    criterion = IoUCamLoss()
    assert (criterion.stats.valid, criterion.stats.dead) == (0, 0)
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    regions = grids(4, 2, 6, 6)
    regions[0, 1] = 0
    where = torch.tensor([True, True, False, True])
    with ActivationTap(net, "4") as tap:
        logits = net(x)
        criterion(logits, tap, regions, [0, 1], where=where)
        assert criterion.stats.valid == 5
        criterion(logits, tap, regions, [0, 1])
        assert criterion.stats.valid == 7
        stats = criterion.stats
    with torch.no_grad():
        net[11].weight.zero_()
    with ActivationTap(net, "4") as tap:
        loss = criterion(net(x), tap, regions, [0, 1])
    assert (criterion.stats.valid, criterion.stats.dead) == (7, 7)
    assert stats.valid == 7, "the stats of an earlier call stay what they were"
    assert repr(criterion.stats) == "CamStats(valid=7, dead=7)"
    loss.backward()
    assert all((p.grad == 0).all() for p in net.parameters() if p.grad is not None)


def test_counts_stay_on_their_device(device):
    stats = CamStats(torch.tensor([[1, 3, 0]], dtype=torch.uint8, device=device))
    before = stats.counts
    assert (stats.valid, stats.dead) == (2, 1)  # looked at
    for one, other in zip(before, stats.counts, strict=True):
        assert torch.equal(one, other)  # an error on two devices
        assert other.device == stats.counts[0].device == before[0].device


def test_state_pickle_and_copies():
    criterion = IoUCamLoss(0.4, 3.0, "sigmoid", "detach", "autograd", "sum")
    assert criterion.state_dict() == {}
    assert not list(criterion.parameters())
    criterion.load_state_dict({})
    maps = torch.rand(2, 3, 4, 4, requires_grad=True)
    loss = criterion(maps.mean((2, 3)), maps, grids(2, 4, 4), 1)
    for other in (pickle.loads(pickle.dumps(criterion)), copy.deepcopy(criterion)):
        assert repr(other) == repr(criterion)
        assert other.stats.valid == criterion.stats.valid == 2
        assert torch.equal(other(maps.mean((2, 3)), maps, grids(2, 4, 4), 1), loss)
    assert repr(criterion) == (
        "IoUCamLoss(threshold=0.4, sharpness=3.0, eps=1e-06, binarize='sigmoid', "
        "weight_grad='detach', head='autograd', reduction='sum')"
    )
    assert "Tensor" not in repr(pickle.dumps(CamStats(torch.ones(2, 2, dtype=torch.uint8))))


def test_options_reach_the_functional():
    maps = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1.0, -1.0, 2.0], [0.5, 0.5, -2.0]], dtype=torch.float64)
    logits = maps.mean((2, 3)) @ weight.t()
    gradients = (weight / 16)[None, :, :, None, None].expand(2, 2, 3, 4, 4)
    regions, weights = grids(2, 2, 4, 4), grids(2, 1, 4, 4, seed=4)
    where = torch.tensor([[True, False], [True, True]])
    for binarize in ("tone", "sigmoid", "hard"):
        for reduction in ("mean", "sum", "none"):
            options = {
                "threshold": 0.3,
                "sharpness": 2.5,
                "binarize": binarize,
                "reduction": reduction,
            }
            got = IoUCamLoss(**options)(logits, maps, regions, cell_weights=weights, where=where)
            wanted = functional.cam_iou_loss(
                maps, gradients, regions, cell_weights=weights, where=where, **options
            )
            torch.testing.assert_close(got, wanted)


def test_nothing_to_supervise():
    net = small_cnn()
    empty = torch.zeros(0, 3, 12, 12)
    for head in ("closed", "autograd"):
        criterion = IoUCamLoss(head=head)
        with ActivationTap(net, "4") as tap:
            logits = net(torch.randn(4, 3, 12, 12))
            loss = criterion(logits, tap, torch.zeros(4, 2, 6, 6), [0, 1])
            assert loss == 0
            assert criterion.stats.valid == 0
            loss.backward()
    with ActivationTap(net, "4", "5") as tap:
        logits = net(empty)
        loss = IoUCamLoss()(logits, tap, torch.zeros(0, 6, 6), 1)
        assert loss == 0
        (logits.sum() + loss).backward()


def test_under_no_grad_after_a_forward_with_a_graph():
    net = small_cnn()
    with ActivationTap(net, "4") as tap:
        logits = net(torch.randn(4, 3, 12, 12))
        wanted = IoUCamLoss(head="autograd")(logits, tap, grids(4, 6, 6), 1)
        for head in ("autograd", "closed"):
            with torch.no_grad():
                loss = IoUCamLoss(head=head)(logits, tap, grids(4, 6, 6), 1)
            assert not loss.requires_grad
            torch.testing.assert_close(loss, wanted.detach())
