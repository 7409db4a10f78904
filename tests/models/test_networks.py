"""torchvision's and timm's networks by name, their layers, and weights that others have trained."""

from __future__ import annotations

import argparse
import re
import sys
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import grids
from tiny_nets import NETS
from torch import nn
from torchvision import models as tv

import fastcam
from fastcam import models
from fastcam._util.architecture import Architecture
from fastcam._util.torch_files import read_torch_file
from fastcam.cam import Tokens
from fastcam.cam.head_autograd import twice_differentiable
from fastcam.models import ModelSpec, layer_table, load_checkpoint, model_spec, spec_of
from fastcam.models.registry import options_for

# One of each family, and what its layer is called in it.
FAMILIES = {
    "alexnet": ("features.11", "features.12"),
    "convnext_tiny": ("features", None),
    "densenet121": ("features.denseblock4", None),
    "efficientnet_b0": ("features", None),
    "googlenet": ("inception5b", None),
    "inception_v3": ("Mixed_7c", None),
    "maxvit_t": ("blocks.3", None),
    "mnasnet0_5": ("layers", None),
    "mobilenet_v2": ("features", None),
    "mobilenet_v3_small": ("features", None),
    "resnet18": ("layer4", None),
    "shufflenet_v2_x0_5": ("conv5", None),
    "squeezenet1_1": ("features", None),
    "swin_t": ("permute", None),
    "swin_v2_t": ("permute", None),
    "vgg11_bn": ("features.27", "features.28"),
    "vit_b_32": ("encoder.layers.encoder_layer_11.ln_1", None),
}


def test_the_small_network_is_guided_on_fine_cells() -> None:
    model = models.build("small", 3, {"width": 8})
    spec = spec_of(model, "small")
    assert models.grid_size(model, spec, (96, 96)) == (12, 12)
    assert model(torch.zeros(2, 3, 16, 40)).shape == (2, 3)
    assert model.get_parameter(spec.logit_bias).shape == (3,)
    with pytest.raises(ValueError, match="width"):
        models.build("small", 3, {"width": 0})


def test_every_classifier_of_torchvision_has_an_entry() -> None:
    named = set(tv.list_models(module=tv))
    assert named <= set(models.model_names())
    assert len(named) >= 80


def test_the_documentation_has_every_layer() -> None:
    text = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    for spec in map(model_spec, tv.list_models(module=tv)):
        assert f"`{spec.target_layer}`" in text


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layer_of_a_family(name: str) -> None:
    with torch.device("meta"):  # sizes alone
        model = models.build(name, 3, options_for(name, None, 224))
    spec = spec_of(model, name)
    assert (spec.target_layer, spec.gradient_at) == FAMILIES[name]
    cells = models.grid_size(model, spec, (224, 224))
    assert cells[0] == cells[1] > 4
    assert getattr(model, "transform_input", True)  # to a range of its own, from that of all
    (head,) = spec.head
    assert model.get_submodule(head).weight.shape[0] == 3
    if spec.logit_bias is not None:
        assert model.get_parameter(spec.logit_bias).shape == (3,)


def test_regnet() -> None:
    """It cannot be built without memory."""
    model = models.build("regnet_y_400mf", 2)
    spec = spec_of(model, "regnet_y_400mf")
    assert models.grid_size(model, spec, (64, 96)) == (2, 3)
    assert model.get_parameter(spec.logit_bias).tolist() == [0, 0]


def test_only_the_head_of_a_residual_network_starts_otherwise() -> None:
    torch.manual_seed(0)
    model = models.build("resnet18", 3)
    wanted = (2 / (64 * 49)) ** 0.5  # He's of what goes out, as torchvision has it
    assert float(model.conv1.weight.detach().std()) == pytest.approx(wanted, rel=0.05)
    assert float(model.fc.weight.detach().std()) == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize("name", ["vit_b_32", "maxvit_t"])
def test_a_network_for_one_size_is_built_for_the_images(name: str) -> None:
    assert options_for("resnet18", None, 96) == {}
    option = model_spec(name).size_option
    assert options_for(name, {option: 224}, 448) == {option: 224}
    with torch.device("meta"):
        model = models.build(name, 3, options_for(name, None, 448))
    assert models.grid_size(model, spec_of(model, name), (448, 448)) == (14, 14)
    with pytest.raises(ValueError, match="224x224 pixels do not pass through the model"):
        models.grid_size(model, spec_of(model, name), (224, 224))


def test_names_that_are_not_known() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'resnet51' \(did you mean 'resnet5"):
        models.build("resnet51", 3)
    with pytest.raises(ValueError, match="'fcn_resnet50'"):  # does not classify
        models.build("fcn_resnet50", 3)
    with pytest.raises(ValueError, match="num_attributes: expected at least 1, got 0"):
        models.build("resnet18", 0)
    with pytest.raises(ValueError, match="model 'resnet18' has no option 'image_size'"):
        models.build("resnet18", 3, {"image_size": 32})
    with pytest.raises(ValueError, match="maxvit_t with .*'input_size'"):
        models.build("maxvit_t", 3, {"input_size": 100})


# ---- another layer -------------------------------------------------------------------------------


def test_another_layer_of_a_transformer_is_read_as_what_it_is_seen_to_be() -> None:
    for name, inner in (("vit", ["encoder.layers.-2", "conv_proj"]), ("swin", ["features.0.0"])):
        kind = NETS[name]
        net = kind.build()
        models.register(f"tiny {name}", ModelSpec(kind.make, kind.layer, reshape=kind.reshape))
        for layer in [kind.layer, *inner]:
            spec = spec_of(net, f"tiny {name}", layer)
            cells = models.grid_size(net, spec, (kind.size, kind.size))
            assert cells == ((4, 4) if name == "vit" or layer == kind.layer else (8, 8))
    assert spec_of(net, "tiny swin", "features.0").reshape == "auto"
    with pytest.raises(ValueError, match=r"no module 'features\.-9'"):
        spec_of(net, "tiny swin", "features.-9")


def test_registers_are_left_out_at_every_layer_of_tokens() -> None:
    net = NETS["vit"].build()
    spec = ModelSpec(NETS["vit"].make, "encoder", reshape=Tokens(prefix=5))
    assert models.spec_at(net, spec, "encoder.ln").reshape == Tokens(prefix=5)
    assert models.spec_at(net, spec, "conv_proj").reshape == "auto"


def test_a_network_without_a_known_layer_says_so() -> None:
    spec = ModelSpec(nn.Identity)
    with pytest.raises(ValueError, match="no layer is known .* name one with --target-layer"):
        models.grid_size(NETS["resnet"].build(), spec, (64, 64))


def test_layers_of_transformers() -> None:
    found = {}
    for name in ("vit", "swin"):
        kind = NETS[name]
        spec = ModelSpec(kind.make, kind.layer, reshape=kind.reshape)
        net = kind.build().float()
        found[name] = {layer.name: layer for layer in layer_table(net, spec, kind.size)}
    vit, swin = found.values()
    assert [x for x, layer in vit.items() if layer.default] == [NETS["vit"].layer]
    last = vit[NETS["vit"].layer]
    assert (last.grid, last.channels, last.reshape) == ((4, 4), 12, "tokens")
    assert (vit["conv_proj"].grid, vit["conv_proj"].reshape) == ((4, 4), None)
    assert vit["conv_proj"].field == vit["conv_proj"].seen == (8, 8)
    # No token of the image is looked at after the last attention.
    assert not {"encoder", "encoder.ln", "encoder.layers.encoder_layer_1"} & set(vit)
    assert (swin["features"].grid, swin["features"].reshape) == ((4, 4), "nhwc")
    assert (swin["permute"].grid, swin["permute"].channels) == ((4, 4), 16)
    assert swin["permute"].reshape is None


# ---- weights -------------------------------------------------------------------------------------


def _write(path: Path, state: dict[str, Any]) -> Path:
    if path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("suffix", "beginning"),
    [(".pth", ""), (".pt", "module."), (".pt", "model._orig_mod."), (".safetensors", "")],
)
def test_a_new_model_starts_with_weights_from_a_file(
    suffix: str, beginning: str, tmp_path: Path
) -> None:
    theirs = tv.shufflenet_v2_x0_5(num_classes=7)
    state = {beginning + k: v for k, v in theirs.state_dict().items() if "num_batches" not in k}
    path = _write(tmp_path / f"weights{suffix}", state)
    ours = models.build("shufflenet_v2_x0_5", 3, weights=path)
    assert torch.equal(ours.conv5[0].weight, theirs.conv5[0].weight)
    assert ours.fc.weight.shape == (3, 1024) and not ours.fc.bias.any()
    assert float(ours.fc.weight.detach().std()) == pytest.approx(0.001, rel=0.1)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "more.pth")
    ours = models.build("shufflenet_v2_x0_5", 3, weights=str(tmp_path / "more.pth"))
    assert torch.equal(ours.conv5[0].weight, theirs.conv5[0].weight)
    with pytest.raises(ValueError, match=r"holds no weights for this ResNet: conv1\.weight is mis"):
        models.build("resnet18", 3, weights=path)


@pytest.mark.parametrize(
    ("name", "pattern", "old"),
    [
        ("densenet121", r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2"),
        ("mnasnet0_5", "", ""),  # asks for the version of its state dict
    ],
)
def test_torchvisions_own_files_of_weights(
    name: str, pattern: str, old: str, tmp_path: Path
) -> None:
    """They have the names of the version that wrote them, which torchvision brings to its own."""
    theirs = tv.get_model(name, num_classes=7).state_dict()
    state = {"module." + (re.sub(pattern, old, k) if old else k): v for k, v in theirs.items()}
    path = _write(tmp_path / "weights.pth", state)
    ours = models.build(name, 3, weights=path)
    head = model_spec(name).head[0]
    own = ours.state_dict()
    assert all(torch.equal(own[k], v) for k, v in theirs.items() if not k.startswith(head))
    whole = load_checkpoint(path, Architecture(name, "A,B,C,D,E,F,G", 64)).model.state_dict()
    assert all(torch.equal(whole[k], v) for k, v in theirs.items())


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("googlenet", {}),  # auxiliary scores, which are not built
        ("inception_v3", {}),
        ("vit_b_32", {"mlp.0": "mlp.linear_1", "mlp.3": "mlp.linear_2"}),
    ],
)
def test_the_names_and_parts_of_torchvisions_own_files(name: str, renamed: dict[str, str]) -> None:
    with torch.device("meta"):
        full = tv.get_model(name, **({} if renamed else {"init_weights": False}))
        built = models.build(name, 3)
    state = dict(full.state_dict())
    for new, old in renamed.items():
        state = {key.replace(new, old): value for key, value in state.items()}
    assert state.keys() != built.state_dict().keys()
    renewed = model_spec(name).renewed
    assert renewed is not None
    assert renewed(state).keys() == renewed(built.state_dict()).keys() == built.state_dict().keys()


def test_weights_among_others(tmp_path: Path) -> None:
    """Of an average of weights; of a module of Lightning's with a loss, or with a Balance."""
    theirs = tv.shufflenet_v2_x0_5(num_classes=3).eval()
    own = theirs.state_dict()
    lightning = {f"model.{k}": v for k, v in own.items()}
    several = {**lightning, **{f"teacher.{k}": v for k, v in own.items()}}
    files = {
        "ema.pth": torch.optim.swa_utils.AveragedModel(theirs).state_dict(),
        "loss.ckpt": {"epoch": 1, "state_dict": {**lightning, "loss.weight": torch.ones(3)}},
        "guided.ckpt": {"state_dict": {**lightning, "guidance.balance._extra_state": {"n": 1}}},
    }
    said = Architecture("shufflenet_v2_x0_5", "A,B,C", 64)
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        found = load_checkpoint(tmp_path / name, said).model.state_dict()
        assert all(torch.equal(found[k], v) for k, v in own.items())
        ours = models.build("shufflenet_v2_x0_5", 2, weights=tmp_path / name)
        assert torch.equal(ours.conv5[0].weight, theirs.conv5[0].weight)
    torch.save(several, tmp_path / "several.pth")
    message = r"it has 2 such networks \(model\., teacher\.\)"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "several.pth", said)
    with pytest.raises(ValueError, match=message):
        models.build("shufflenet_v2_x0_5", 2, weights=tmp_path / "several.pth")


def test_weights_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.pth does not exist"):
        models.build("resnet18", 3, weights="nowhere.pth")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="list.pt holds no weights: it has no state dict"):
        models.build("resnet18", 3, weights=tmp_path / "list.pt")
    torch.save(nn.Linear(1, 1), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="whole.pt holds no weights: it holds Python objects"):
        models.build("resnet18", 3, weights=tmp_path / "whole.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x02" + bytes(7) + b"{x")
    pytest.importorskip("safetensors")
    with pytest.raises(ValueError, match="cut.safetensors holds no weights: it is damaged"):
        models.build("resnet18", 3, weights=tmp_path / "cut.safetensors")


def test_weights_lie_beside_what_trainers_keep(tmp_path: Path) -> None:
    theirs = tv.shufflenet_v2_x0_5(num_classes=3).eval()
    args = argparse.Namespace(lr=0.1, data=Path("images"), best=np.float32(0.5))
    kept: dict[str, Any] = {
        "model": theirs.state_dict(),
        "args": args,
        "best": np.float64(0.5),
        "step": np.int64(3),
    }
    found = load_checkpoint(_write(tmp_path / "last.pth.tar", kept), SAID).model
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(found(images), theirs(images))
    kept["ema"] = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"whole network \(torch\.nn\.modules\.linear\.L"):
        load_checkpoint(_write(tmp_path / "last.pth.tar", kept), SAID)


class _Pickled:
    """A number of NumPy's with a state of its type's that only a crafted file has."""

    def __reduce__(self) -> Any:
        return np.float64(0).__reduce__()[0], (_Type(), bytes(16))


class _Type:
    def __reduce__(self) -> Any:
        state = (3, "<", (np.dtype("f8"), (2,)), None, None, 1 << 28, 1, 32)
        return np.dtype, ("f8", False, True), state


def test_a_files_numbers_bring_no_type_of_their_own(tmp_path: Path) -> None:
    """NumPy's types take any state, and some end the process when a number of theirs is made."""
    torch.save({"a": _Pickled(), "b": np.float32(0.5), "c": np.int8(-1)}, tmp_path / "a.pt")
    found = read_torch_file(tmp_path / "a.pt")
    assert found == {"a": 0.0, "b": 0.5, "c": -1}
    assert type(found["a"]) is float


@pytest.mark.parametrize(
    "allowed", [(), (np.dtype,), (np.float64(0).__reduce__()[0],)], ids=["", "dtype", "scalar"]
)
def test_what_a_program_reads_beside_stays_as_it_allowed_it(
    allowed: tuple[Any, ...], tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    torch.save({"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5)}, path)
    mine = [argparse.Namespace, *allowed]
    with torch.serialization.safe_globals(mine):
        before = set(torch.serialization.get_safe_globals())
        with ThreadPoolExecutor(4) as threads:
            read = list(threads.map(read_torch_file, [path] * 100))
        assert all(vars(found["args"]) == {"lr": 0.1} and found["best"] == 0.5 for found in read)
        assert set(torch.serialization.get_safe_globals()) == before


def test_safetensors_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.safetensors").write_bytes(b"\x02" + bytes(7) + b"{} ")
    with pytest.raises(ImportError, match=r"needs 'safetensors'.*fastcam\[timm\]"):
        models.build("resnet18", 3, weights=tmp_path / "a.safetensors")


def test_torchvisions_weights_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tv.shufflenet_v2_x0_5().state_dict()
    asked = []

    def load(url: str, **_: object) -> dict[str, torch.Tensor]:
        asked.append(url)
        return theirs

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    for name in ("IMAGENET1K_V1", "DEFAULT", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"):
        ours = models.build("shufflenet_v2_x0_5", 3, weights=name)
        assert torch.equal(ours.conv1[0].weight, theirs["conv1.0.weight"])
        assert ours.fc.weight.shape == (3, 1024)
    assert len(asked) == 3 and all("shufflenetv2_x0.5" in url for url in asked)
    with pytest.raises(ValueError, match="expected one of IMAGENET1K_V1, .* for shufflenet"):
        models.build("shufflenet_v2_x0_5", 3, weights="IMAGENET1K_V9")

    def offline(url: str, **_: object) -> None:
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ConnectionError, match=r"cannot be downloaded .* --weights FILE"):
        models.build("shufflenet_v2_x0_5", 3, weights="DEFAULT")


def test_names_of_weights_are_for_networks_that_have_them() -> None:
    with pytest.raises(ValueError, match="weights: expected a file for model 'attention', got 'X'"):
        models.build("attention", 3, weights="X")


def test_a_vit_s_positions_are_brought_to_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in tv.vit_b_32().state_dict().items()}
    state = {k: torch.zeros(1).expand(shape) for k, shape in shapes.items()}
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: state)
    found = model_spec("vit_b_32").pretrained("DEFAULT", 3, {"image_size": 96})
    assert found["encoder.pos_embedding"].shape == (1, 1 + 9, 768)


# ---- files of weights alone ----------------------------------------------------------------------

SAID = Architecture("shufflenet_v2_x0_5", "A, B,C", 64)


def test_a_plain_state_dict_with_its_architecture(tmp_path: Path) -> None:
    theirs = tv.shufflenet_v2_x0_5(num_classes=3).eval()
    path = _write(tmp_path / "weights.pth", theirs.state_dict())
    checkpoint = load_checkpoint(path, SAID)
    images = torch.randn(2, 3, 64, 64)
    assert not checkpoint.model.training
    assert torch.equal(checkpoint.model(images), theirs(images))
    assert checkpoint.attributes == ["A", "B", "C"]
    assert checkpoint.preprocessing.size == 64
    assert checkpoint.preprocessing.mean == (0.485, 0.456, 0.406)
    assert checkpoint.spec.target_layer == "conv5"
    again = load_checkpoint(models.save_checkpoint(tmp_path / "model.pt", checkpoint), SAID)
    assert (again.model_name, again.attributes) == ("shufflenet_v2_x0_5", ["A", "B", "C"])
    inner = load_checkpoint(path, Architecture("shufflenet_v2_x0_5", "A,B,C", 64, "stage4.-1"))
    saved = models.save_checkpoint(tmp_path / "inner.pt", inner)
    assert load_checkpoint(saved).spec.target_layer == "stage4.3"


def test_a_plain_state_dict_that_does_not_fit(tmp_path: Path) -> None:
    path = _write(tmp_path / "weights.pth", tv.shufflenet_v2_x0_5(num_classes=4).state_dict())
    with pytest.raises(ValueError, match=r"with 3 scores: fc\.weight has shape \(4, 1024\)"):
        load_checkpoint(path, SAID)
    with pytest.raises(ValueError, match="is no fastcam checkpoint.*or say whose .* --arch NAME"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="no module 'conv9'"):
        load_checkpoint(path, Architecture(SAID.arch, "A,B,C,D", 64, "conv9"))
    with pytest.raises(ValueError, match="unknown model 'shuffle'"):
        load_checkpoint(path, Architecture("shuffle", "A"))
    with pytest.raises(ValueError, match="--arch without --arch-attributes"):
        Architecture("resnet18")
    with pytest.raises(ValueError, match="--arch-attributes without --arch"):
        Architecture(arch_attributes="A")
    with pytest.raises(ValueError, match="arch_size: expected at least 1, got 0"):
        Architecture("resnet18", "A", 0)


# ---- timm ----------------------------------------------------------------------------------------


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"needs 'timm'; install it with: .*fastcam\[timm\]"):
        models.build("timm:resnet18", 3)


@pytest.mark.parametrize(
    ("name", "layer", "cells"),
    [
        ("resnet10t", "layer4", 2),
        ("convnext_atto", "stages.3", 2),
        ("test_efficientnet", "bn2", 2),
        ("test_vit", "blocks.5.norm1", 4),
        ("swin_tiny_patch4_window7_224", "layers.3", 2),
        ("xcit_nano_12_p16_224", "blocks.11", 4),
        ("mixer_s32_224", "blocks.7", 7),
    ],
)
def test_timms_networks(name: str, layer: str, cells: int) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    size = 224 if name.startswith("mixer") else 64
    options = {} if name.startswith(("xcit", "mixer")) else options_for(f"timm:{name}", None, size)
    model = models.build(f"timm:{name}", 3, options).train()
    spec = spec_of(model, f"timm:{name}")
    assert spec.target_layer == layer
    assert models.grid_size(model, spec, (size, size)) == (cells, cells)
    (head,) = spec.head
    weight = model.get_submodule(head).weight
    assert float(weight.detach().std()) == pytest.approx(0.001, rel=0.1)  # all near one half
    nn.init.normal_(weight)
    with spec.tap(model) as tap, twice_differentiable():
        logits = model(torch.randn(2, 3, size, size))
        regions = grids(2, 2, cells, cells).float()
        loss = fastcam.IoUCamLoss()(logits, tap, regions, [0, 2])
        assert fastcam.grad_cam_maps(logits, tap, [0, 2]).any()
    loss.backward()
    trained = [p for p in model.parameters() if p.grad is not None and p.grad.any()]
    assert len(trained) > 10


def test_timms_names_sizes_and_refusals() -> None:
    timm = pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"timm has no model 'resnet18x' \(did you mean 'timm:res"):
        model_spec("timm:resnet18x")
    spec = model_spec("timm:vit_tiny_patch16_224")
    assert (spec.size_option, spec.mean, spec.head) == ("img_size", (0.5, 0.5, 0.5), ("head",))
    assert spec.std == (0.5, 0.5, 0.5)
    assert model_spec("timm:resnet18").size_option is None
    models.build("timm:resnet10t", 3, {"img_size": 176})  # as it is built: no option of it
    with torch.device("meta"):
        model = timm.create_model("hrnet_w18_small", num_classes=3)
    assert spec_of(model, "timm:hrnet_w18_small").target_layer == ""
    with pytest.raises(ValueError, match="timm:resnet18 with options"):
        models.build("timm:resnet18", 3, {"img_size": 64})
    with pytest.raises(ValueError, match="weights: expected one of DEFAULT, .*a1_in1k"):
        models.build("timm:resnet18", 3, weights="NONE")


def test_timms_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        if pretrained:
            raise OSError("no route to host")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        ConnectionError, match=r"cannot be had \(no route to host\).*--weights FILE"
    ):
        models.build("timm:resnet18", 3, weights="DEFAULT")


def test_timms_weights_from_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("convnext_atto", num_classes=7)
    path = _write(tmp_path / "weights.safetensors", theirs.state_dict())
    ours = models.build("timm:convnext_atto", 3, weights=path)
    assert torch.equal(ours.stem[0].weight, theirs.stem[0].weight)
    assert ours.head.fc.weight.shape[0] == 3
    checkpoint = load_checkpoint(path, Architecture("timm:convnext_atto", "A,B,C,D,E,F,G", 64))
    assert torch.equal(checkpoint.model.head.fc.weight, theirs.head.fc.weight)
    assert not checkpoint.exclusive
    half = (0.5, 0.5, 0.5)  # not ImageNet's, of which other networks' images are made
    theirs = timm.create_model("test_vit", num_classes=3, img_size=64)
    path = _write(tmp_path / "vit.pth", theirs.state_dict())
    architecture = Architecture("timm:test_vit", arch_classes="A,B,C", arch_size=64)
    checkpoint = load_checkpoint(path, architecture)
    assert (checkpoint.preprocessing.mean, checkpoint.preprocessing.std) == (half, half)
    assert checkpoint.exclusive
