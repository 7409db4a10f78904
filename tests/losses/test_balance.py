"""``Balance``: guidance that draws on the guided layer as hard as the labels do."""

from __future__ import annotations

import io
import warnings
from contextlib import ExitStack

import pytest
import torch
from balance_worker import HEADS, TwoHeads, heads_step, run, step
from balance_worker import batch as ddp_batch
from balance_worker import network as ddp_network
from networks import gradients_of, grids, network, small_cnn
from networks import images as images_for
from process_group import SHARES, found_by_all
from torch import nn
from torch._functorch import config as functorch
from torch.distributed import checkpoint

import fastcam
from fastcam import ActivationTap, Balance, EnergyCamLoss, IoUCamLoss

X = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
REGIONS = grids(6, 6, 6)
LABELS = (torch.rand(6, 5, generator=torch.Generator().manual_seed(4)) > 0.5).double()


def bce(logits: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, LABELS.to(logits))


_entered = ExitStack()


@pytest.fixture(autouse=True)
def _leave():
    """The taps that a test has entered by :func:`losses`."""
    with _entered:
        yield


def losses(net, x=X, where=None, **options):
    """Label loss, guidance loss and the tap, which stays entered until the test is over."""
    criterion = IoUCamLoss(sharpness=2.0, **options)
    tap = _entered.enter_context(ActivationTap(net, "4", "5"))
    logits = net(x)
    return bce(logits), criterion(logits, tap, REGIONS.to(x), 1, where=where), tap


def norm(loss, at, rows=slice(None)):
    return torch.autograd.grad(loss, at, retain_graph=True)[0][rows].norm()


def drawn(guidance, at):
    """Rows that the guidance draws on: those of valid pairs whose map is not dead."""
    (gradient,) = torch.autograd.grad(guidance, at, retain_graph=True)
    return gradient.flatten(1).any(1)


def net64() -> nn.Sequential:
    return small_cnn().double().eval()


def twin(label, guidance, tap):
    """The ratio of a first measurement, and whether the head's weights decide it."""
    a, weight = tap.activations, tap.model[-1].weight
    ratio = norm(label, a, drawn(guidance, a)) / norm(guidance, a)
    bound = 3 * norm(label, weight) / norm(guidance, weight)
    return torch.minimum(ratio, bound), bool(bound < ratio)


def test_guidance_draws_as_hard_as_the_labels_on_the_images_it_guides():
    where = torch.tensor([True, False, True, False, False, True])
    label, guidance, tap = losses(net64(), where=where)
    balance = Balance(pull=0.5)
    total = balance(label, guidance, tap)
    rows = drawn(guidance, tap.activations)
    assert 0 < rows.sum() <= where.sum()
    assert (rows <= where).all()
    wanted, by_weights = twin(label, guidance, tap)
    assert not by_weights
    torch.testing.assert_close(balance.ratio.double(), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(total, label + 0.5 * wanted * guidance, rtol=1e-6, atol=0)
    assert not balance.ratio.requires_grad
    pulled = norm(total - label, tap.activations)
    torch.testing.assert_close(pulled, 0.5 * norm(label, tap.activations, rows), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ratios_are_float32_under_a_default_dtype_of_16_bits(dtype):
    label, guidance, tap = losses(net64())
    found, kept = [], torch.get_default_dtype()
    for default in (kept, dtype):
        torch.set_default_dtype(default)
        try:
            balance = Balance()
            for _ in range(2):  # of the first the second took the root of a square
                balance(label, 1e5 * guidance, tap)
            loaded = Balance()
            loaded.load_state_dict(balance.state_dict())
        finally:
            torch.set_default_dtype(kept)
        found += [balance.ratio, loaded.ratio]
    assert 0 < found[0] < 1e-4
    torch.testing.assert_close(found, found[:1] * 4)


def test_the_head_s_weights_are_drawn_at_most_three_times_as_hard():
    net = net64()
    label, guidance, tap = losses(net)
    label = 1e-3 * label + tap.activations.square().sum()  # hardly draws on W
    balance = Balance()
    total = balance(label, guidance, tap)
    wanted, by_weights = twin(label, guidance, tap)
    assert by_weights
    torch.testing.assert_close(balance.ratio.double(), wanted, rtol=1e-6, atol=0)
    weight = net[-1].weight
    torch.testing.assert_close(norm(total - label, weight), 3 * norm(label, weight))


def update(scale_label=1.0, scale_guidance=1.0, scale_layer=1.0, scale_head=1.0):
    """Direction of a guided step, of networks that differ in scales alone."""
    net = net64()
    scaled = {}
    with torch.no_grad():
        for name, factor in (("3", scale_layer), ("8", 1 / scale_layer), ("11", scale_head)):
            scaled[f"{name}.weight"] = factor
            net.get_submodule(name).weight *= factor
        net[3].bias *= scale_layer
        net[11].bias *= scale_head
    balance = Balance()
    criterion = IoUCamLoss(sharpness=2.0)
    with ActivationTap(net, "4", "5") as tap:
        logits = net(X)
        label = scale_label * bce(logits / scale_head)
        total = balance(label, scale_guidance * criterion(logits, tap, REGIONS, 1), tap)
    grads = gradients_of(total, net)
    # In the units of the unscaled network; biases of the scaled layers as their weights.
    for name, factor in scaled.items():
        grads[name] = grads[name] * factor
    grads["3.bias"] = grads["3.bias"] * scale_layer
    grads["11.bias"] = grads["11.bias"] * scale_head
    return torch.cat([g.flatten() for g in grads.values()])


@pytest.mark.parametrize(
    "scales",
    [
        {"scale_label": 10.0},
        {"scale_guidance": 10.0},
        {"scale_guidance": 1e-4},
        {"scale_layer": 10.0},
        {"scale_head": 10.0},
    ],
)
def test_scales_do_not_matter(scales):
    wanted, got = update(), update(**scales)
    got = got / scales.get("scale_label", 1.0)
    torch.testing.assert_close(got, wanted, rtol=2e-5, atol=1e-9)


def test_a_plain_sum_is_not_free_of_scales():
    """The control of the test above: what a fixed weight does."""
    net = net64()
    label, guidance, tap = losses(net)
    w_g = float(twin(label, guidance, tap)[0])
    one = gradients_of(label + w_g * guidance, net)
    label, guidance, tap = losses(net)
    ten = gradients_of(label + 10 * w_g * guidance, net)
    a, b = (torch.cat([g.flatten() for g in grads.values()]) for grads in (one, ten))
    assert torch.cosine_similarity(a, b, dim=0) < 0.99


def test_rare_attributes_are_not_over_pulled():
    """5 % positives: the norm of the labels counts on the guided images only."""
    net = net64()
    x = torch.randn(40, 3, 12, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    where = torch.arange(40) % 20 == 7
    balance = Balance()
    with ActivationTap(net, "4", "5") as tap:
        logits = net(x)
        label = logits.square().mean()
        guidance = IoUCamLoss(sharpness=2.0)(logits, tap, grids(40, 6, 6), 1, where=where)
        balance(label, guidance, tap)
        a = tap.activations
        assert 0 < drawn(guidance, a).sum() <= where.sum() == 2
        wanted, _ = twin(label, guidance, tap)
        torch.testing.assert_close(balance.ratio.double(), wanted, rtol=1e-6, atol=0)
        assert norm(label, a) / norm(guidance, a) > 2 * wanted


def test_no_valid_pair_keeps_the_ratio_and_the_labels_gradient():
    net = net64()
    balance = Balance(every=1)
    nothing = torch.zeros(6, dtype=torch.bool)
    label, guidance, tap = losses(net, where=nothing)
    assert balance(label, guidance, tap) == label
    assert balance.ratio == 0
    label, guidance, tap = losses(net)
    balance(label, guidance, tap)
    kept = balance.ratio
    assert kept > 0
    label, guidance, tap = losses(net, where=nothing)
    got = gradients_of(balance(label, guidance, tap), net)
    assert balance.ratio == kept
    wanted = gradients_of(losses(net, where=nothing)[0], net)
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient)


def test_a_label_loss_without_a_graph_is_told():
    label, guidance, tap = losses(net64())
    balance = Balance()
    with pytest.warns(UserWarning, match="label_loss does not require grad"):
        assert balance(label.detach(), guidance, tap) == label
    balance(label, guidance, tap)
    with warnings.catch_warnings():  # a batch without labels, later
        warnings.simplefilter("error")
        total = balance(torch.zeros(()).double(), guidance, tap)
    torch.testing.assert_close(total, balance.ratio * guidance)


def test_a_non_finite_norm_keeps_the_ratio():
    net = net64()
    balance = Balance(every=1)
    label, guidance, tap = losses(net)
    balance(label, guidance, tap)
    kept = balance.ratio
    for factor in (float("inf"), float("nan"), 0.0):
        label, guidance, tap = losses(net)
        total = balance(label, factor * guidance, tap)
        assert balance.ratio == kept
        assert total.isfinite() == (factor == 0.0)  # what is wrong stays to be seen
    label, guidance, tap = losses(net)
    balance(0.0 * label, guidance, tap)
    assert balance.ratio == kept


@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
def test_a_control_is_as_if_there_were_no_guidance(factor):
    net = net64()
    label, guidance, tap = losses(net)
    wanted = gradients_of(label, net)
    label, guidance, tap = losses(net)
    with pytest.warns(UserWarning, match="makes the sum NaN unless its pull is 0"):
        total = Balance(pull=0)(label, factor * guidance, tap)
    assert total == label
    for name, gradient in gradients_of(total, net).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=0)
    # Beside one that counts.
    label, guidance, tap = losses(net)
    balance = Balance(pull=[1.0, 0.0])
    with pytest.warns(UserWarning, match="guidance loss 1 at '4' is (inf|nan)"):
        total = balance(label, [(guidance, tap), (factor * guidance, tap)])
    torch.testing.assert_close(total, label + balance.ratio[0] * guidance)


def test_nan_in_an_image_that_is_not_guided_keeps_the_ratio():
    """The norms at the layer are finite then, those at the head's weights are not."""
    net = net64()
    balance = Balance(every=1)
    others = torch.arange(6) > 0
    balance(*losses(net, where=others))
    kept = balance.ratio
    bad = X.clone()
    bad[0] = float("nan")
    balance(*losses(net, x=1.5 * bad, where=others))
    assert balance.ratio == kept
    balance(*losses(net, x=1.5 * X, where=others))
    assert balance.ratio != kept


def test_it_goes_half_of_the_way_and_does_not_grow_without_bound():
    net = net64()
    balance = Balance(every=1)

    def measured(factor):
        label, guidance, tap = losses(net)
        balance(label, guidance / factor, tap)
        return float(balance.ratio)

    first = measured(1.0)
    assert measured(4.0) == pytest.approx(2 * first, rel=1e-5)  # half of the way up
    assert measured(0.5) == pytest.approx(first, rel=1e-5)
    for _ in range(12):
        last = measured(1e6)
    assert last == pytest.approx(10 * first, rel=1e-5)


def test_it_measures_every_few_calls():
    net = net64()
    balance = Balance(every=3)
    seen = []
    for _ in range(10):
        label, guidance, tap = losses(net)
        balance(label, guidance, tap)
        seen.append(balance.measured)
    assert seen == [True] * 4 + [False] * 2 + [True] + [False] * 2 + [True]
    frozen = Balance(every=None)
    frozen.load_state_dict(balance.state_dict())
    label, guidance, tap = losses(net)
    total = frozen(label, guidance, tap)
    assert not frozen.measured
    torch.testing.assert_close(total, label + balance.ratio * guidance)


def test_a_loss_without_a_ratio_is_measured_until_it_has_one():
    net = net64()
    balance = Balance(every=2)
    seen = []
    for factor in (0, 0, 0, 0, 1, 1, 1, 1):
        label, guidance, tap = losses(net)
        balance(label, [(guidance, tap), (factor * guidance, tap)])
        seen.append(balance.measured)
    assert seen == [True] * 5 + [False, True, False]


def test_the_sum_is_of_the_label_loss_s_dtype_and_the_ratio_changes_in_place():
    net = net64()
    balance = Balance(every=1)
    label, guidance, tap = losses(net)
    assert balance(label.float(), guidance, tap).dtype == torch.float32
    before, place = balance.ratio, balance._ratios[0].data_ptr()
    balance(label.float(), guidance / 4, tap)
    assert balance._ratios[0].data_ptr() == place  # where a captured graph has left it
    assert balance.ratio != before


def test_what_never_measures_and_has_no_ratios_says_that_it_does_nothing():
    label, guidance, tap = losses(net64())
    with pytest.warns(UserWarning, match="every=None never measures, and no ratios were loaded"):
        assert Balance(every=None)(label, guidance, tap) == label


def test_without_gradients_the_last_ratio_serves():
    net = net64()
    balance = Balance()
    label, guidance, tap = losses(net)
    balance(label, guidance, tap)
    kept = balance.ratio
    with torch.no_grad():
        total = balance(torch.tensor(1.0), torch.tensor(2.0), tap)
    assert total == 1 + kept * 2
    assert not balance.measured


def test_in_evaluation_the_last_ratio_serves():
    net = net64()
    balance = Balance(every=1)
    balance(*losses(net))
    kept = balance.ratio
    label, guidance, tap = losses(net)
    total = balance.eval()(label, guidance / 100, tap)
    assert (balance.ratio, balance.measured, balance.due) == (kept, False, False)
    torch.testing.assert_close(total, label + kept * guidance / 100)
    assert balance.train().due
    with torch.no_grad():
        assert not balance.due


def test_a_head_that_is_frozen_or_that_the_labels_do_not_reach_sets_no_bound():
    for frozen in (True, False):
        net = net64()
        net[-1].requires_grad_(not frozen)
        label, guidance, tap = losses(net)
        a = tap.activations
        label = a.square().sum() + (label if frozen else 0)
        wanted = norm(label, a, drawn(guidance, a)) / norm(guidance, a)
        balance = Balance()
        balance(label, guidance, tap)
        torch.testing.assert_close(balance.ratio.double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("loads", [False, True])
def test_a_training_goes_on_from_what_inference_mode_made(loads):
    net, saved, ratios = net64(), Balance(), []
    saved(*losses(net))
    for mode in (torch.no_grad, torch.inference_mode):
        balance = Balance(every=1)
        with mode(), ActivationTap(net, "4", "5") as tap:
            if loads:
                balance.load_state_dict(saved.state_dict())
            net(X)
            balance(torch.tensor(1.0), torch.tensor(2.0), tap)
        label, guidance, tap = losses(net)
        balance(label, guidance / 2, tap)
        ratios.append(balance.ratio)
    assert 0 < ratios[0] == ratios[1]
    assert (ratios[0] < 1.9 * saved.ratio) == loads  # half of the way from what was loaded


def test_several_losses_and_taps():
    net = net64()
    iou, hard = IoUCamLoss(sharpness=2.0), IoUCamLoss(sharpness=1.0)
    balance = Balance(pull=[1.0, 0.3])
    with ActivationTap(net, "4", "5") as late, ActivationTap(net, "1") as early:
        logits = net(X)
        label = bce(logits)
        first = iou(logits, late, REGIONS, 1)
        second = hard(logits, early, grids(6, 12, 12), 2)
        total = balance(label, [(first, late), (second, early)])
        pairs = ((first, late), (second, early))
        ratios = torch.stack([twin(label, loss, tap)[0] for loss, tap in pairs])
    torch.testing.assert_close(balance.ratio.double(), ratios, rtol=1e-6, atol=0)
    wanted = label + ratios[0] * first + 0.3 * ratios[1] * second
    torch.testing.assert_close(total, wanted, rtol=1e-6, atol=0)


def test_gradient_accumulation_does_not_change_the_ratio():
    whole, parts = Balance(), Balance()
    label, guidance, tap = losses(net64())
    whole(label, guidance, tap)
    label, guidance, tap = losses(net64())
    parts(label / 4, guidance / 4, tap)
    torch.testing.assert_close(parts.ratio, whole.ratio)


def test_an_accumulated_step_is_that_of_the_whole_batch():
    """Two losses, of which the first one's pairs are not in every part; in and out of turn."""
    where = torch.tensor([True, True, False, False, True, False])
    criteria = IoUCamLoss(sharpness=2.0), EnergyCamLoss()
    counts = [float(where.sum()), 6.0]

    def terms(net, tap, rows, images):
        logits = net(X[rows])
        label = nn.functional.binary_cross_entropy_with_logits(
            logits, LABELS[rows], reduction="sum"
        ) / (images * LABELS.shape[1])
        found = [
            criterion(logits, tap, REGIONS[rows], target, where=on, normalizer=count)
            for criterion, target, on, count in zip(
                criteria, (1, 2), (where[rows], None), counts, strict=True
            )
        ]
        return label, [(loss, tap) for loss in found]

    whole, parts = (Balance([1.0, 0.3], every=2) for _ in range(2))
    nets = net64(), net64()
    optimizers = [torch.optim.SGD(net.parameters(), 0.3) for net in nets]
    slices = [slice(0, 3), slice(3, 4), slice(4, 6)]
    for step_number in range(5):
        for optimizer in optimizers:
            optimizer.zero_grad()
        with ActivationTap(nets[0], "4", "5") as tap:
            whole(*terms(nets[0], tap, slice(0, 6), 6)).backward()
        due = parts.due
        for ahead in (True, False) if due else (False,):
            if not ahead:
                parts.update()
            for rows in slices:
                with ActivationTap(nets[1], "4", "5") as tap:
                    found = terms(nets[1], tap, rows, 6)
                    if ahead:
                        parts.gather(*found)
                    else:
                        parts.weighed(*found).backward()
        assert (due, whole.measured) == (parts.measured, parts.measured)
        assert due == (step_number in (0, 1, 2, 4))
        torch.testing.assert_close(parts.ratio, whole.ratio)
        grads = [[p.grad for p in net.parameters()] for net in nets]
        torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-8)
        for optimizer in optimizers:
            optimizer.step()
    assert not parts.eval().due


def test_the_bound_of_an_accumulated_step_is_of_all_its_parts():
    label, guidance, tap = losses(net64())
    label = label + tap.activations.square().sum()  # past the head
    wanted, decisive = twin(label, guidance, tap)
    assert decisive
    balance = Balance()
    for share in (0.75, 0.25):
        balance.gather(share * label, (1 - share) * guidance, tap)
    balance.update()
    torch.testing.assert_close(balance.ratio.double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_measures_what_float32_does(dtype):
    """With a smooth loss: an IoU loss multiplies the rounding of the activations themselves."""
    ratios = []
    for half in (False, True):
        net = small_cnn().eval()
        balance = Balance()
        with ActivationTap(net, "4", "5") as tap:
            with torch.autocast("cpu", dtype, enabled=half):
                logits = net(X.float())
            # A mean over many labels: in float16 its gradient would be flushed to zero.
            label = 1e-6 * bce(logits.float())
            guidance = tap.activations.float().square().mean()
            balance(label, guidance, tap)
        ratios.append(balance.ratio)
    assert tap.layer == "4"
    torch.testing.assert_close(ratios[1], ratios[0], rtol=0.05, atol=0)


def test_grad_scaler():
    results = []
    for scale in (None, 1024.0):
        net = small_cnn().eval()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        balance = Balance()
        for _ in range(3):
            optimizer.zero_grad()
            label, guidance, tap = losses(net, X.float())
            scaler.scale(balance(label, guidance, tap)).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append([p.detach() for p in net.parameters()])
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


def test_a_frozen_trunk():
    net = network("alexnet").eval()
    net.features.requires_grad_(False)
    balance = Balance()
    x = images_for("alexnet")
    criterion = IoUCamLoss(sharpness=2.0)
    with ActivationTap(net, "features.11", "features.12") as tap:
        logits = net(x)
        label = logits.square().mean()
        guidance = criterion(logits, tap, grids(3, *tap.activations.shape[-2:]), 1)
        total = balance(label, guidance, tap)
    assert 0 < balance.ratio < float("inf")
    total.backward()
    assert all(p.grad is None for p in net.features.parameters())
    assert all(p.grad.abs().sum() > 0 for p in net.classifier.parameters())


def test_hooks_of_parameters_see_the_step_alone():
    """As those of wandb.watch: what the losses draw by themselves is not the step's gradient."""
    net = small_cnn()
    found: dict[str, list[torch.Tensor]] = {}
    for name, parameter in net.named_parameters():
        parameter.register_hook(lambda grad, name=name: found.setdefault(name, []).append(grad))
    balance = Balance()
    with ActivationTap(net, "4", "5") as tap:
        logits = net(torch.randn(4, 3, 12, 12))
        guidance = IoUCamLoss()(logits, tap, grids(4, 6, 6).float(), 0)
        total = balance(logits.square().mean(), guidance, tap)
        assert balance.measured
        assert not found
    total.backward()
    assert sorted(found) == sorted(name for name, _ in net.named_parameters())
    for name, parameter in net.named_parameters():
        (seen,) = found[name]
        assert seen.equal(parameter.grad)


@pytest.mark.parametrize("head", ["auto", "autograd"])
def test_the_measurement_leaves_the_gradient_as_it_is(head):
    """Also where the head's closed form adds to a weight's gradient in place."""
    net = net64().train()
    found = []
    for every in (1, None):
        torch.manual_seed(7)
        balance = Balance(every=every)
        balance.set_extra_state({"calls": 0, "ratios": [torch.tensor(0.5)], "first": [0.5]})
        label, guidance, tap = losses(net, head=head)
        total = balance(label, guidance, tap)
        found.append((float(balance.ratio), gradients_of(total - label, net)))
    assert all(p.grad is None for p in net.parameters())
    (one, got), (other, wanted) = found
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name] / one, gradient / other, rtol=1e-5, atol=1e-9)


def test_the_measurement_leaves_what_retains_its_gradient_as_it_is():
    """At both tapped layers, the logits and the losses, also where the head was recognised
    before."""
    net = net64()
    late, early = ActivationTap(net, "4", "5"), ActivationTap(net, "1")
    balance, iou = Balance(every=8), IoUCamLoss(sharpness=2.0)
    balance.set_extra_state({"calls": 0, "ratios": [torch.tensor(0.5)] * 2, "first": [1e9] * 2})
    for _ in range(2):
        found = []
        for every in (8, None):
            balance.every = every
            with late, early:
                logits = net(X)
                label = bce(logits)
                terms = [
                    (iou(logits, late, REGIONS, 1), late),
                    (iou(logits, early, grids(6, 12, 12), 2), early),
                ]
                kept = [late.activations, early.activations, logits, label, terms[0][0]]
                for tensor in kept:
                    tensor.retain_grad()
                total = balance(label, terms)
            assert balance.measured == (every is not None)
            assert all(tensor.grad is None for tensor in kept)
            total.backward()
            found.append([tensor.grad for tensor in kept])
        torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_loaded_state_measures_when_the_run_that_saved_it_would_have(on_cpu):
    """A loss without a ratio is measured again and again where looking costs no wait, so on a CPU:
    a run on a GPU does not begin to do that because its state has been loaded to the CPU."""
    balance = Balance(every=4)
    nothing = torch.zeros(())
    state = {"calls": 5, "ratios": [nothing], "first": [nothing], "on_cpu": on_cpu}
    balance.set_extra_state(state)
    assert balance.due is on_cpu
    assert balance.get_extra_state()["on_cpu"] is on_cpu
    label, guidance, tap = losses(net64())
    balance.weighed(label, guidance, tap)
    assert balance.due and balance.get_extra_state()["on_cpu"]  # now it is on one


def test_state_dict_goes_through_a_distributed_checkpoint(tmp_path):
    """Which is loaded into the state of a new Balance, that has seen no loss yet."""
    saved, loaded = Balance(), Balance()
    saved(*losses(net64()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process alone
        checkpoint.save({"balance": saved.state_dict()}, checkpoint_id=tmp_path)
        state = {"balance": loaded.state_dict()}
        checkpoint.load(state, checkpoint_id=tmp_path)
    loaded.load_state_dict(state["balance"])
    assert loaded.ratio == saved.ratio > 0
    assert loaded.get_extra_state() == saved.get_extra_state()


def test_state_dict_goes_through_a_file():
    balance = Balance(every=2)
    for _ in range(3):
        label, guidance, tap = losses(net64())
        balance(label, guidance, tap)
    buffer = io.BytesIO()
    torch.save(nn.ModuleDict({"balance": balance}).state_dict(), buffer)
    buffer.seek(0)
    other = Balance(every=2)
    nn.ModuleDict({"balance": other}).load_state_dict(torch.load(buffer, weights_only=True))
    for each in (balance, other):
        label, guidance, tap = losses(net64())
        each(label, guidance / 3, tap)
    assert balance.measured == other.measured
    torch.testing.assert_close(other.ratio, balance.ratio, rtol=0, atol=0)


@pytest.mark.parametrize("world", SHARES)
def test_several_processes_equal_one(tmp_path, world):
    ranks = found_by_all(run, world, tmp_path)
    for head in HEADS:
        ratio, grads = step(ddp_network(), ddp_batch(), head)
        for got in (found[head] for found in ranks):
            torch.testing.assert_close(got["ratio"], ratio, rtol=1e-6, atol=0)
            assert got["local"] != pytest.approx(float(ratio), rel=1e-3)  # its own rows
            torch.testing.assert_close(got["grads"], grads, rtol=1e-6, atol=1e-9)
    # The last linear layer is another process's: the sum of its gradients is waited for by all.
    torch.manual_seed(3)
    ratio, grads = heads_step(TwoHeads(), ddp_batch(), SHARES[world][0])
    for found in ranks:
        torch.testing.assert_close(found["heads"][0], ratio, rtol=1e-6, atol=0)
        torch.testing.assert_close(found["heads"][1], grads, rtol=1e-6, atol=1e-9)


def test_a_strong_pull_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Balance(2.0)
    with pytest.warns(UserWarning, match="above 2 guidance outweighs the labels"):
        Balance([1.0, 3.0])


@pytest.mark.parametrize(
    ("label", "guidance", "message"),
    [
        (lambda a: a[3:].sum(), lambda a: a[:3].sum(), "label_loss has no gradient at '4' yet on"),
        (lambda a: a[:3].sum(), lambda a: 1 + 0 * a.sum(), "guidance loss 0 has no gradient at"),
        (lambda a: 0 * a.sum(), lambda a: 1 + 0 * a.sum(), "guidance loss 0 has no gradient at"),
        # A finite loss, an infinite gradient.
        (lambda a: a.sum(), lambda a: a.sqrt().sum(), "label_loss and of guidance loss 0 at '4'"),
        (lambda a: a.sum(), lambda a: a.log().sum(), "guidance loss 0 at '4' is -inf: .* sum NaN"),
    ],
)
def test_the_first_call_says_which_loss_has_no_gradient(label, guidance, message):
    net = net64()
    with ActivationTap(net, "4") as tap:
        net(X)
        balance = Balance()
        with pytest.warns(UserWarning, match=message):
            balance(label(tap.activations), guidance(tap.activations), tap)
    assert balance.ratio == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pull": -1.0}, "pull: expected a number finite and >= 0, got -1"),
        ({"pull": float("nan")}, "pull: expected"),
        ({"pull": []}, "pull: expected a number or one for each"),
        ({"every": 0}, "every: expected a number whole and >= 1"),
        ({"sync": "all"}, "sync: expected one of 'global', 'local'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Balance(**options)


def test_options_may_be_set_between_calls():
    label, guidance, tap = losses(net64())
    balance = Balance()
    balance(label, [(guidance, tap)] * 2)
    first, second = balance.ratio.tolist()
    balance.pull = [0.5, 0.25]
    total = balance.weighed(label, [(guidance, tap)] * 2)
    torch.testing.assert_close(total, label + (0.5 * first + 0.25 * second) * guidance)
    for option, value, message in (
        ("pull", -1.0, "pull: expected a number finite and >= 0, got -1"),
        ("pull", [1.0, float("nan")], "pull: expected a number finite and >= 0, got nan"),
        ("every", 0, "every: expected a number whole and >= 1, got 0"),
        ("sync", "all", "sync: expected one of 'global', 'local'"),
    ):
        balance = Balance()
        setattr(balance, option, value)
        with pytest.raises(ValueError, match=message):
            balance(label, guidance, tap)


def test_a_compiled_loss_that_frees_its_graph_is_told():
    compiled = torch.compile(nn.functional.cross_entropy, backend="aot_eager_decomp_partition")
    labels = torch.arange(6) % 5
    for donates in (True, False):
        torch._dynamo.reset()
        with functorch.patch(donated_buffer=donates), ActivationTap(net64(), "4") as tap:
            # A step that does not measure, for which the backward is then compiled.
            compiled(tap.model(X), labels).backward()
            logits = tap.model(X)
            guidance = EnergyCamLoss()(logits, tap, REGIONS, 1)
            label, balance = compiled(logits, labels), Balance()
            if donates:
                with pytest.raises(ValueError, match=r"donated_buffer = False before they are"):
                    balance(label, guidance, tap)
            else:
                balance(label, guidance, tap).backward()
                assert balance.ratio > 0


def test_wrong_calls():
    label, guidance, tap = losses(net64())
    with pytest.raises(TypeError, match="tap: expected an ActivationTap, got NoneType"):
        Balance()(label, guidance)
    with pytest.raises(TypeError, match="guidance: expected a scalar tensor or a list"):
        Balance()(label, [guidance])
    with pytest.raises(ValueError, match=r"label_loss: expected a scalar, got shape \[2\]"):
        Balance()(label.expand(2), guidance, tap)
    with pytest.raises(ValueError, match=r"pull: expected one number a guidance loss \(1\)"):
        Balance([1.0, 2.0])(label, guidance, tap)
    with pytest.raises(ValueError, match="label_loss: does not depend on the tapped activations"):
        Balance()(torch.ones((), requires_grad=True) * 2, guidance, tap)
    balance = Balance()
    balance(label, guidance, tap)
    with pytest.raises(ValueError, match="guidance: expected 1 losses as in the calls before"):
        balance(label, [(guidance, tap)] * 2)


def test_it_is_public_and_says_what_it_is():
    assert fastcam.Balance is Balance
    assert repr(Balance(0.5)) == "Balance(pull=0.5, every=8, sync='global')"
