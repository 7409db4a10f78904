"""torchvision's classifiers for K attributes, and where each is guided."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.error import URLError

from torch import Tensor, nn
from torchvision import models as tv

from fastcam._util import checks as check
from fastcam.models.init import initialize
from fastcam.models.spec import ModelSpec

__all__ = ["names", "spec"]


@dataclass(frozen=True)
class _Family:
    """What networks have in common whose names match ``pattern``."""

    pattern: str
    head: str  # the module that gives the logits
    layer: str
    gradient_at: str | None = None
    reshape: str | None = None
    bias: bool = True  # whether the head has one that is added to the logits last
    he: bool = False  # whether the other layers get He's initialisation, too
    size: str | None = None  # the argument for the side of the images, if they must have one
    arguments: tuple[tuple[str, Any], ...] = ()
    # How torchvision's own files of weights differ: a pattern in their names, and what it is now.
    # None: of a part that is not built.
    renamed: tuple[tuple[str, str | None], ...] = ()


# No auxiliary scores; and inputs normalised as all others' are, which these two turn into their own
# range themselves.
_INCEPTION = (("aux_logits", False), ("init_weights", False), ("transform_input", True))
_AUXILIARY = ((r"(^|\.)(aux1|aux2|AuxLogits)\.", None),)
# Files are as old as their weights.
_DENSE_LAYERS = ((r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2"),)
_MLP_BLOCKS = ((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3."))

# The last layer that returns a map, before what is done with whole maps (docs/networks.md).
_FAMILIES = (
    _Family("alexnet", "classifier.6", "features.11", "features.12", he=True),
    _Family("convnext_.*", "classifier.2", "features"),
    # What norm5 returns is overwritten in place by a function.
    _Family("densenet.*", "classifier", "features.denseblock4", renamed=_DENSE_LAYERS),
    _Family("efficientnet_.*|mobilenet_v2", "classifier.1", "features"),
    _Family("googlenet", "fc", "inception5b", arguments=_INCEPTION, renamed=_AUXILIARY),
    _Family("inception_v3", "fc", "Mixed_7c", arguments=_INCEPTION, renamed=_AUXILIARY),
    _Family("maxvit_t", "classifier.5", "blocks.-1", bias=False, size="input_size"),
    _Family("mnasnet.*", "classifier.1", "layers"),
    _Family("mobilenet_v3_.*", "classifier.3", "features"),
    _Family("regnet_.*", "fc", "trunk_output"),
    _Family("(wide_)?resnet.*|resnext.*", "fc", "layer4"),
    _Family("shufflenet_v2_.*", "fc", "conv5"),
    _Family("squeezenet.*", "classifier.1", "features", bias=False),  # a ReLU follows
    # After the last norm, where Swin's [N,H,W,C] has become [N,C,H,W].
    _Family("swin_.*", "head", "permute"),
    _Family("vgg.*", "classifier.6", "features.-2", "features.-1", he=True),
    # The last tokens of which all are looked at by the class token.
    _Family(
        "vit_.*",
        "heads.head",
        "encoder.layers.-1.ln_1",
        reshape="tokens",
        size="image_size",
        renamed=_MLP_BLOCKS,
    ),
)


def names() -> list[str]:
    """Those that have an entry here."""
    return [name for name in tv.list_models(module=tv) if _family(name) is not None]


def _family(name: str) -> _Family | None:
    return next((f for f in _FAMILIES if re.fullmatch(f.pattern, name)), None)


def spec(name: str) -> ModelSpec | None:
    """How to build a classifier of torchvision, and where it is guided; None of another name."""
    family = _family(name)
    if family is None or name not in tv.list_models(module=tv):
        return None
    return ModelSpec(
        partial(_build, name, family),
        family.layer,
        family.gradient_at,
        options=(family.size,) if family.size else (),
        logit_bias=f"{family.head}.bias" if family.bias else None,
        reshape=family.reshape,
        head=(family.head,),
        size_option=family.size,
        pretrained=partial(_pretrained, name),
        renewed=partial(_renewed, family.renamed) if family.renamed else None,
    )


def _build(name: str, family: _Family, num_attributes: int, **options: Any) -> nn.Module:
    """From scratch, with a small last layer of one logit per attribute.

    Raises:
        ValueError: ``num_attributes`` below 1, or a size that the network cannot have.
    """
    check.at_least("num_attributes", num_attributes, 1)
    if family.size == "input_size" and options:
        options = {"input_size": (options["input_size"],) * 2}
    try:
        model = tv.get_model(name, num_classes=num_attributes, **dict(family.arguments), **options)
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{name} with {options}: {str(error).splitlines()[0]}") from None
    head = model.get_submodule(family.head)
    initialize(model if family.he else head, head)
    return model


def _pretrained(
    name: str, weights: str, num_attributes: int, options: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    """The state dict of torchvision's weights of that name, downloaded where it is not kept.

    Raises:
        ValueError: there are none of that name.
        ConnectionError: they cannot be downloaded.
    """
    kinds = tv.get_model_weights(name)
    wanted = weights.rpartition(".")[2]
    if wanted not in kinds.__members__:
        raise ValueError(
            f"weights: expected one of {', '.join(kinds.__members__)} for {name}, or a file, "
            f"got {weights!r}"
        )
    chosen: Any = kinds[wanted]
    try:
        state = chosen.get_state_dict(progress=False, check_hash=True)
    except (URLError, TimeoutError) as error:
        raise ConnectionError(
            f"the weights {chosen} cannot be downloaded ({getattr(error, 'reason', error)}); fetch "
            f"{chosen.url} where there is a network, and give the file: --weights FILE"
        ) from None
    if "image_size" in options:
        patch = state["conv_proj.weight"].shape[-1]
        state = tv.vision_transformer.interpolate_embeddings(options["image_size"], patch, state)
    return state


def _renewed(
    renamed: tuple[tuple[str, str | None], ...], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A state dict of torchvision's by the names that the network has now."""
    found = {}
    for name, value in state.items():
        now: str | None = name
        for pattern, new in renamed:
            if re.search(pattern, name):
                now = None if new is None else re.sub(pattern, new, name)
        if now is not None:
            found[now] = value
    return found
