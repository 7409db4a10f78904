"""Which layers a tap can take, what a cell of each sees, and a spec at another layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastcam
from fastcam import models
from fastcam.models import ModelSpec, model_spec, spec_at


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
    with pytest.raises(TypeError, match="expected the name of a module, got int"):
        spec_at(model, spec, 3)
