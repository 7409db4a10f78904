"""Which layers a tap can take, what a cell of each sees, and a spec at another layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastcam
from fastcam import models
from fastcam.models import ModelSpec, layer_table, model_spec, spec_at


@pytest.mark.parametrize(
    ("name", "layer", "gradient_at"),
    [
        ("alexnet", "features.1", "features.2"),
        ("alexnet", "features.4", "features.5"),
        ("alexnet", "features.9", None),
        ("alexnet", "features.11", "features.12"),
        ("resnet18", "layer3", None),
        ("resnet18", "layer4.0", None),
        ("resnet18", "layer4", None),
    ],
)
def test_a_spec_at_another_layer_takes_the_gradient_after_its_pooling(name, layer, gradient_at):
    model, spec = models.build(name, 3), model_spec(name)
    at = spec_at(model, spec, layer)
    assert (at.target_layer, at.gradient_at) == (layer, gradient_at)
    assert (at.build, at.logit_bias) == (spec.build, spec.logit_bias)
    images = torch.zeros(1, 3, 64, 64)
    with fastcam.ActivationTap(model.eval(), layer, at.gradient_at) as tap:
        model(images)
        assert tap.gradient_point is not None  # which checks what ran in between


def test_pooling_that_follows_pooling():
    trunk = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Identity(), nn.MaxPool2d(2), nn.AvgPool2d(2),
        nn.Identity(), nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    spec = ModelSpec(lambda k: trunk, "0")
    assert spec_at(trunk, spec, "1").gradient_at == "4"
    assert spec_at(trunk, spec, "4").gradient_at is None
    assert spec_at(trunk, spec, "0") is spec
    trunk[5] = nn.ReLU(inplace=True)  # overwrites what the second pooling returned
    assert spec_at(trunk, spec, "1").gradient_at == "3"


def test_a_spec_at_no_layer():
    model, spec = models.build("alexnet", 3), model_spec("alexnet")
    with pytest.raises(ValueError, match=r"no module 'features\.99'; did you mean 'features\.9'"):
        spec_at(model, spec, "features.99")
    with pytest.raises(ValueError, match=r"'features\.10' is overwritten .* by 'features\.11'"):
        spec_at(model, spec, "features.10")
    with pytest.raises(TypeError, match="expected a module or its name, got int"):
        spec_at(model, spec, 3)


# ---- the table -----------------------------------------------------------------------------------


def chain(*layers: tuple[int, int, int]) -> int:
    """Field of (kernel, stride, dilation) after one another: 1 + sum of (k - 1) d times the stride
    so far."""
    field, stride = 1, 1
    for kernel, step, dilation in layers:
        field, stride = field + (kernel - 1) * dilation * stride, stride * step
    return field


# Kernels and strides of AlexNet, in the order of its table at 224 pixels.
ALEXNET = {
    "features.1": [(11, 4, 1)],
    "features.2": [(3, 2, 1)],
    "features.4": [(5, 1, 1)],
    "features.5": [(3, 2, 1)],
    "features.7": [(3, 1, 1)],
    "features.9": [(3, 1, 1)],
    "features.11": [(3, 1, 1)],
    "features": [(3, 2, 1)],
}


def test_alexnet_s_fields_are_those_of_its_kernels_and_strides():
    model = models.build("alexnet", 3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = {layer.name: layer for layer in layer_table(model, model_spec("alexnet"), 224)}
    assert list(layers) == [*ALEXNET, "avgpool"]
    ran = []
    for name, added in ALEXNET.items():
        ran += added
        assert layers[name].field == (chain(*ran),) * 2, name
    assert layers["features.11"].field == (163, 163)
    assert layers["features"].field == (195, 195)
    assert layers["avgpool"].field is None  # its windows grow with the image
    conv5 = layers["features.11"]
    assert (conv5.kind, conv5.channels, conv5.grid) == ("ReLU", 256, (13, 13))
    assert [name for name, layer in layers.items() if layer.default] == ["features.11"]
    assert conv5.seen == (163, 163)  # row 6 of 13 starts at pixel 31 of the image
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_small_image_cuts_the_field():
    model = models.build("alexnet", 3)
    layers = {layer.name: layer for layer in layer_table(model, model_spec("alexnet"), 128)}
    conv5 = layers["features.11"]
    assert (conv5.grid, conv5.field, conv5.seen) == ((7, 7), (163, 163), (128, 128))
    assert layers["features.7"].seen == layers["features.7"].field == (99, 99)
    with pytest.raises(ValueError, match="16x16 pixels do not pass through the model"):
        layer_table(model, model_spec("alexnet"), 16)


def test_resnet_s_longest_path_counts():
    layers = {
        x.name: x for x in layer_table(models.build("resnet18", 3), model_spec("resnet18"), 64)
    }
    ran = [(7, 2, 1), (3, 2, 1)]
    for number in range(1, 5):
        ran += [(3, 1 if number == 1 else 2, 1), (3, 1, 1)]
        assert layers[f"layer{number}.0"].field == (chain(*ran),) * 2
        ran += [(3, 1, 1)] * 2
        assert layers[f"layer{number}"].field == (chain(*ran),) * 2
    assert layers["layer4"].field == (435, 435)
    assert layers["layer4"].seen == (64, 64)
    assert layers["layer4"].default
    assert "layer4.1.relu" not in layers  # layer4 is the same output
    assert "bn1" not in layers  # overwritten in place
    assert "avgpool" not in layers  # one cell


def test_code_between_the_modules_oblong_kernels_dilation_and_layers_that_do_not_count():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 4, (3, 5), dilation=2, padding=(2, 4))
            self.gate = nn.Conv2d(4, 4, 1)
            self.b = nn.Conv2d(4, 4, 3, padding=1)
            self.aside = nn.Conv2d(3, 2, 3)
            self.last = nn.Linear(4, 2)

        def forward(self, x):
            self.aside(x)
            x = torch.max_pool2d(self.a(x).relu(), 2)
            x = self.b(x) * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
            return self.last(x.sum((2, 3)))

    layers = {x.name: x for x in layer_table(Net(), ModelSpec(Net, "b"), 32)}
    assert list(layers) == ["a", "b"]
    assert layers["a"].field == (5, 9)
    assert layers["b"].field == (5 + 1 + 2 * 2, 9 + 1 + 2 * 2)
    assert layers["b"].grid == (16, 16)
