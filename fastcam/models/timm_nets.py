"""timm's classifiers, as ``timm:NAME``, and where each is guided. timm is an extra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from fastcam._util import checks as check
from fastcam._util.extras import require
from fastcam._util.names import did_you_mean
from fastcam.cam.layout import Tokens
from fastcam.models.init import initialize
from fastcam.models.spec import ModelSpec

__all__ = ["is_name", "spec"]

_PREFIX = "timm:"

# By timm's module, where the last stage that timm names is not the layer to guide: what comes after
# it, or, in a network of preactivations, the norm that belongs to it. Empty: nothing there is a map
# (several maps, or tokens in another order than the image's).
_LAYERS: dict[str, str] = {
    "efficientnet": "bn2",
    "hiera": "",
    "hrnet": "",
    "nfnet": "final_act",
    "pit": "",
    "resnetv2": "norm",
    "twins": "",
    "vgg": "features.-2",
    "xception_aligned": "act",
}
_POOLS = {"vgg": "features.-1"}


def is_name(name: str) -> bool:
    """Whether a model's name is one of timm's."""
    return name.startswith(_PREFIX)


def _timm() -> Any:
    return require("timm", extra="timm")


def spec(name: str) -> ModelSpec:
    """How to build a model of timm.

    Raises:
        ValueError: timm has no such model.
        ImportError: timm is not installed.
    """
    timm, own = _timm(), name[len(_PREFIX) :]
    if not timm.is_model(own):
        known = [_PREFIX + model for model in timm.list_models()]
        hint = did_you_mean(name.partition(".")[0], known, 3)
        raise ValueError(f"timm has no model {own!r}{hint}")
    settings = timm.get_pretrained_cfg(own)
    classifier = getattr(settings, "classifier", None) or ()
    sized = "img_size" if getattr(settings, "fixed_input_size", False) else None
    return ModelSpec(
        partial(_build, own),
        options=("img_size", "drop_rate", "drop_path_rate"),
        head=(classifier,) if isinstance(classifier, str) else tuple(classifier),
        size_option=sized,
        mean=tuple(getattr(settings, "mean", ModelSpec.mean)),
        std=tuple(getattr(settings, "std", ModelSpec.std)),
        pretrained=partial(_pretrained, own),
        locate=_locate,
    )


def _create(name: str, num_attributes: int, options: Mapping[str, Any], **more: Any) -> nn.Module:
    check.at_least("num_attributes", num_attributes, 1)
    timm, options = _timm(), dict(options)
    own = getattr(timm.get_pretrained_cfg(name), "input_size", None)
    if own is not None and options.get("img_size") == own[-1]:
        del options["img_size"]  # not all that are built for one size can be for another
    try:
        return timm.create_model(name, num_classes=num_attributes, **options, **more)
    except (TypeError, ValueError, AssertionError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{_PREFIX}{name} with options {options}: {text}") from None


def _build(name: str, num_attributes: int, **options: Any) -> nn.Module:
    """From scratch, with a small last layer of one logit per attribute."""
    model = _create(name, num_attributes, options)
    for head in spec(_PREFIX + name).head:
        module = dict(model.named_modules()).get(head)
        if module is not None:
            initialize(module, module)
    return model


def _pretrained(
    name: str, weights: str, num_attributes: int, options: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    """The state dict of timm's weights, downloaded where they are not kept.

    Args:
        weights: ``DEFAULT``, or a tag (``fb_in22k``).

    Raises:
        ValueError: there are none of that name.
        ConnectionError: they cannot be downloaded.
    """
    timm, bare = _timm(), name.partition(".")[0]
    tags = [n.partition(".")[2] for n in timm.list_models(f"{bare}.*", pretrained=True)]
    if weights != "DEFAULT":
        if weights not in tags:
            known = ", ".join(["DEFAULT", *tags])
            raise ValueError(
                f"weights: expected one of {known} for {_PREFIX}{name}, or a file, got {weights!r}"
            )
        name = f"{bare}.{weights}"
    elif not tags:
        raise ValueError(f"weights: timm has none for {_PREFIX}{name}; give a file")
    try:
        return _create(name, num_attributes, options, pretrained=True).state_dict()
    except ValueError:
        raise
    except Exception as error:  # of huggingface_hub, which timm downloads with, if it is there
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConnectionError(
            f"timm's weights {name} cannot be had ({text}); fetch them where there is a network, "
            "and give the file: --weights FILE"
        ) from None


def _locate(model: nn.Module, found: ModelSpec) -> ModelSpec:
    """With the layer: of a family of ``_LAYERS``, else the last stage that timm itself names."""
    modules = dict(model.named_modules())
    family = type(model).__module__.rpartition(".")[2]
    layer = _LAYERS.get(family)
    if layer is None:
        info: Any = getattr(model, "feature_info", None) or ()
        stages = [str(stage["module"]) for stage in getattr(info, "info", info)]
        layer = stages[-1] if stages and stages[-1] in modules else ""
    reshape: Any = None
    prefix = getattr(model, "num_prefix_tokens", None)
    if getattr(model, "output_fmt", None) == "NHWC":
        reshape = "nhwc"
    elif prefix is not None and family not in _WITHOUT_PREFIX:
        reshape = Tokens(prefix=int(prefix))
        # What the last block returns for the image's tokens, a class token does not look at.
        if getattr(model, "global_pool", None) == "token" and f"{layer}.norm1" in modules:
            layer = f"{layer}.norm1"
    elif layer:
        reshape = "auto"
    bias = f"{found.head[0]}.bias" if len(found.head) == 1 else None
    if bias not in dict(model.named_parameters()):
        bias = None
    return replace(
        found, target_layer=layer, gradient_at=_POOLS.get(family), reshape=reshape, logit_bias=bias
    )


# Their class token comes after the last block of the image's tokens.
_WITHOUT_PREFIX = frozenset({"cait", "xcit"})
