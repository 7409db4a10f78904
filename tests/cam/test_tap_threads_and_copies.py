"""The tap in other people's programs: threads, copies and files of the model, TorchScript, export,
``torch.func``, frozen networks that overwrite in place."""

from __future__ import annotations

import collections
import copy
import copyreg
import importlib.util
import io
import pickle
import threading
import warnings

import pytest
import torch
from networks import gradients_of, grids, small_cnn
from torch import nn
from torch.nn import functional as nnf

from fastcam.cam import hook_registry
from fastcam.cam.maps import grad_cam_maps
from fastcam.cam.tap import ActivationTap
from fastcam.losses.cam import IoUCamLoss

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3))


def hook_count(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def in_thread(function) -> list:
    """What the function returned or raised in another thread."""
    result = []

    def run():
        try:
            result.append(function())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert result, "the thread did not come back"
    return result


def maps_of(net: nn.Module, x: torch.Tensor = X) -> torch.Tensor:
    with ActivationTap(net, "4") as tap:
        return grad_cam_maps(net(x), tap, 1)


# ---- threads -------------------------------------------------------------------------------------


def test_a_forward_of_another_thread_does_not_enter():
    net = small_cnn().eval()
    wanted = maps_of(net)
    with ActivationTap(net, "4", "5") as tap:
        logits = net(X)
        maps, trace, calls = tap.activations, tap.trace, len(tap.trace.calls)
        in_thread(lambda: net(X[:1]))
        assert tap.activations is maps and tap.trace is trace and len(trace.calls) == calls
        assert torch.equal(grad_cam_maps(logits, tap, 1), wanted)


def test_a_tap_entered_in_another_thread_says_so():
    net = small_cnn().eval()
    with ActivationTap(net, "4") as tap:
        in_thread(lambda: net(X))
        with pytest.raises(ValueError, match="ran in another thread than the one that entered"):
            _ = tap.activations
        net(X)
        assert len(tap.activations) == 4


@pytest.mark.parametrize("frozen", [False, True])
def test_taps_of_several_threads_on_one_model(frozen):
    """They take turns between the forward and the map of each, so that any mix-up shows."""
    net = small_cnn().eval().requires_grad_(not frozen)
    inputs = [X * (i + 1) - i for i in range(4)]
    wanted = [maps_of(net, x) for x in inputs]
    barrier = threading.Barrier(len(inputs), timeout=60)

    def work(x):
        found = []
        for _ in range(5):
            with ActivationTap(net, "4") as tap:
                barrier.wait()
                logits = net(x)
                barrier.wait()
                found.append(grad_cam_maps(logits, tap, 1))
                barrier.wait()
        return found

    results: list = [None] * len(inputs)

    def run(i):
        results[i] = in_thread(lambda: work(inputs[i]))[0]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for got, expected in zip(results, wanted, strict=True):
        assert isinstance(got, list), got
        for maps in got:
            torch.testing.assert_close(maps, expected)
    assert hook_count(net) == 0


# ---- copies and files ----------------------------------------------------------------------------


def through_torch_save(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": through_torch_save,
    "EMA": lambda model: torch.optim.swa_utils.AveragedModel(model).module,
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_a_tapped_model_carry_nothing_of_the_tap(how):
    net = small_cnn().eval()
    net[3].register_forward_hook(nnf_relu)  # of the user; it stays
    logits = net(X)
    with ActivationTap(net, "4", "5") as tap:
        net(X)
        other = COPIES[how](net)
        assert hook_count(other) == 1 < hook_count(net)
        assert torch.equal(other(X), logits)
        assert len(tap.activations) == 4  # the copy's forward is not the model's
        assert COPIES[how](other) is not other
    assert hook_count(net) == 1
    assert torch.equal(maps_of(other), maps_of(net))
    assert list(other[3]._forward_hooks) == list(net[3]._forward_hooks)


def nnf_relu(module, args, output):
    return nnf.relu(output)


def test_what_is_saved_holds_no_batch_and_needs_no_fastcam():
    net = small_cnn().eval()
    plain = pickle.dumps(net)
    with ActivationTap(net, "4", "5"):
        net(torch.randn(64, 3, 12, 12))
        assert pickle.dumps(net) == plain
    assert b"fastcam" not in plain


def test_a_state_dict_is_saved_as_ever():
    net = small_cnn()
    with ActivationTap(net, "4"):
        state = net.state_dict()
        for other in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
            assert type(other) is collections.OrderedDict
            assert other._metadata == state._metadata
            assert all(torch.equal(other[name], state[name]) for name in state)


class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small_cnn()
        self.tap = ActivationTap(self.net, "4", "5")


def test_a_model_that_owns_its_tap_is_copied_without_its_batch():
    owner = Owner().eval()
    with owner.tap:
        owner.net(X)
        for how in ("deepcopy", "pickle", "torch.save"):
            other = COPIES[how](owner)
            assert other.tap.model is other.net and repr(other.tap) == repr(owner.tap)
            assert other.tap._trace is None and hook_count(other) == 0
            with pytest.raises(ValueError, match="is not entered"):
                _ = other.tap.activations
            with other.tap:
                other.net(X[:2])
                assert len(other.tap.activations) == 2
        assert len(owner.tap.activations) == 4


def test_how_ordered_dicts_are_copied_is_put_back(monkeypatch):
    net = small_cnn()
    assert collections.OrderedDict not in copyreg.dispatch_table
    with ActivationTap(net, "4"), ActivationTap(net, "3"):
        assert collections.OrderedDict in copyreg.dispatch_table
    assert collections.OrderedDict not in copyreg.dispatch_table
    asked = []

    def of_the_user(mapping):
        asked.append(len(mapping))
        return collections.OrderedDict.__reduce__(mapping)

    monkeypatch.setitem(copyreg.dispatch_table, collections.OrderedDict, of_the_user)
    with ActivationTap(net, "4"):
        assert hook_count(copy.deepcopy(net)) == 0
    assert asked
    assert copyreg.dispatch_table[collections.OrderedDict] is of_the_user


def test_without_torch_s_number_of_the_backward(monkeypatch):
    """A private function of torch: where it is missing, only checkpoints could be mistaken."""
    spec = importlib.util.spec_from_file_location("another", hook_registry.__file__)
    another = importlib.util.module_from_spec(spec)
    monkeypatch.delattr(torch._C, "_current_graph_task_id")
    spec.loader.exec_module(another)
    net = small_cnn()
    assert another.of_this_forward(net, id(net))
    assert not another.of_this_forward(net, id(net[0]))


# ---- TorchScript and export ----------------------------------------------------------------------


def in_two(net: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(net[:5], net[5:])


def torchscript(module: nn.Module, how: str, x: torch.Tensor, **options) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        return (
            torch.jit.script(module) if how == "script" else torch.jit.trace(module, x, **options)
        )


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("head", ["auto", "autograd"])
def test_torchscript_parts(how, part, head):
    plain = in_two(small_cnn()).double().eval()
    mixed = copy.deepcopy(plain)
    x = X.double()
    mixed[part] = torchscript(mixed[part], how, x if part == 0 else plain[0](x).detach())
    for _ in range(3):  # the second and third run what TorchScript optimised
        results = []
        for net in (plain, mixed):
            with ActivationTap(net, "0") as tap:
                loss = IoUCamLoss(head=head, sharpness=2.0)(net(x), tap, grids(4, 2, 6, 6), [1, 2])
            results.append((loss, list(gradients_of(loss, net).values())))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_hides_its_layers_and_says_so(how):
    net = in_two(small_cnn()).eval()
    whole = torchscript(net, how, X)
    with pytest.raises(ValueError, match=r"^model: the layers of a TorchScript module .* tap the"):
        ActivationTap(whole, "0")
    net[0] = torchscript(net[0], how, X)
    with pytest.raises(ValueError, match="'0.4' lies in '0', which is TorchScript: .* tap the"):
        ActivationTap(net, "0.4")


@pytest.mark.parametrize("frozen", [False, True])
def test_recording_a_tapped_model(frozen):
    net = small_cnn().eval().requires_grad_(not frozen)
    wanted = maps_of(net)
    with ActivationTap(net, "4") as tap:
        logits = net(X)
        with pytest.raises(AttributeError, match="^model: a tapped model cannot be scripted"):
            torchscript(net, "script", X)
        traced = torchscript(net, "trace", X, check_trace=False)
        exported = [torch.export.export(net, (X,), strict=strict) for strict in {False, frozen}]
        symbolic = torch.fx.symbolic_trace(net)
        assert torch.equal(grad_cam_maps(logits, tap, 1), wanted)
    assert "clone" not in str(traced.inlined_graph)
    for program in exported:
        assert not any("clone" in str(node.target) for node in program.graph.nodes)
    for other in (traced, *(program.module() for program in exported), symbolic):
        torch.testing.assert_close(other(X), logits)


# ---- torch.func ----------------------------------------------------------------------------------


def test_functional_call():
    net = small_cnn().eval()
    parameters = {
        name: (1.1 * value).detach().requires_grad_() for name, value in net.named_parameters()
    }
    same = copy.deepcopy(net)
    same.load_state_dict(parameters)
    with ActivationTap(same, "4") as tap:
        wanted = gradients_of(IoUCamLoss()(same(X), tap, grids(4, 6, 6), 1), same)
    for head in ("auto", "autograd", "closed"):
        with ActivationTap(net, "4") as tap:
            logits = torch.func.functional_call(net, parameters, (X,))
            loss = IoUCamLoss(head=head)(logits, tap, grids(4, 6, 6), 1)
        got = torch.autograd.grad(
            loss, list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        torch.testing.assert_close(dict(zip(parameters, got, strict=True)), wanted)


@pytest.mark.parametrize("frozen", [False, True])
def test_transforms_run_through_a_tapped_model(frozen):
    net = small_cnn().eval().requires_grad_(not frozen)
    transforms = (
        lambda: torch.func.grad(lambda x: net(x).sum())(X),
        lambda: torch.vmap(net)(X[None]),
        lambda: torch.func.jvp(net, (X,), (X,))[1],
    )
    wanted = [transform() for transform in transforms]
    for transform, expected in zip(transforms, wanted, strict=True):
        with ActivationTap(net, "4") as tap:
            net(X)
            torch.testing.assert_close(transform(), expected)
            with pytest.raises(ValueError, match="which ran inside a torch.func transform"):
                _ = tap.activations
            net(X)
            assert len(tap.activations) == 4


# ---- what is overwritten in place ----------------------------------------------------------------


class Overwriting(nn.Module):
    """DenseNet's end: what comes after the last layer is overwritten by code outside of modules."""

    def __init__(self, how):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6))
        self.how = how
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(nnf.adaptive_avg_pool2d(self.how(self.features(x)), 1).flatten(1))


def add_in_place(x):
    x += 1
    return x


WAYS = {  # in place, and not
    "relu": (lambda x: nnf.relu(x, inplace=True), nnf.relu),
    "add": (add_in_place, lambda x: x + 1),
    "part of it": (lambda x: x.index_fill_(1, torch.tensor([2]), 0), lambda x: x * MASK),
    "a view of it": (lambda x: (x[:, :2].zero_(), x)[1], lambda x: x * MASK_OF_TWO),
    "relu module": (nn.ReLU(inplace=True), nnf.relu),
    "twice": (lambda x: nnf.relu_(add_in_place(x)), lambda x: nnf.relu(x + 1)),
}
MASK = torch.tensor([1.0, 1, 0, 1, 1, 1]).view(1, 6, 1, 1)
MASK_OF_TWO = torch.tensor([0.0, 0, 1, 1, 1, 1]).view(1, 6, 1, 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layer", ["features.1", "features"])
def test_a_frozen_network_may_overwrite_the_tapped_output(way, layer):
    results = []
    for how in WAYS[way]:
        torch.manual_seed(0)
        net = Overwriting(how).eval().requires_grad_(False)
        net.fc.requires_grad_(True)
        plain = net(X)
        with ActivationTap(net, layer) as tap:
            logits = net(X)
            maps = grad_cam_maps(logits, tap, [0, 1])
            loss = IoUCamLoss(sharpness=2.0)(logits, tap, grids(4, 2, 6, 6), [0, 1])
            (logits.square().mean() + loss).backward()
        assert torch.equal(logits, plain)
        results.append((maps, loss.detach(), net.fc.weight.grad))
    torch.testing.assert_close(*results)
    assert results[0][2].abs().sum() > 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layer", ["features.1", "features"])
def test_a_trained_one_is_told_what_to_change(way, layer):
    net = Overwriting(WAYS[way][0])
    with ActivationTap(net, layer) as tap:
        net(X)
        with pytest.raises(ValueError, match=f"layer: the output of '{layer}' was overw") as caught:
            _ = tap.activations
    if way == "relu module":
        assert str(caught.value).endswith("tap 'how' instead, or give 'how' inplace=False")
    else:
        assert str(caught.value).endswith("makes a new tensor: F.relu(x), x = x + y")


def test_advice_never_names_what_is_tapped_or_cannot_be():
    flat = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Dropout(0.5, inplace=True))
    with ActivationTap(flat, "0") as tap:
        flat(X)
        with pytest.raises(ValueError, match=r"\(Dropout\); give '2' inplace=False$"):
            _ = tap.activations  # '2' returns no [N,C,H,W]

    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.relu(self.conv(x))).mean((2, 3))

    for frozen in (False, True):
        net = Again().requires_grad_(not frozen)
        with ActivationTap(net, "relu") as tap:
            grad_cam_maps(net(X), tap, 1)

    net = small_cnn()
    net[6], net[7] = nn.Identity(), nn.Dropout(0.5, inplace=True)
    net[8] = nn.Sequential(nn.Flatten(), nn.Linear(72, 16))
    with ActivationTap(net, "4", "5") as tap:
        net(X)
        with pytest.raises(ValueError, match="leave gradient_at out, or give '7' inplace=False"):
            _ = tap.gradient_point
