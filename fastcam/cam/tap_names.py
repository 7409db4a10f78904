"""The modules that a user names to a tap: found, or an error that says what is meant instead."""

from __future__ import annotations

import difflib

from torch import nn

from fastcam.cam.hook_registry import is_opaque
from fastcam.cam.layers import is_compiled

__all__ = ["name_of", "resolve"]


def name_of(model: nn.Module, argument: str, layer: object) -> str:
    """The name of a layer that was given by name, or as the module itself.

    Raises:
        TypeError: it is neither.
        ValueError: the module is no part of the model, or the model itself.
    """
    if isinstance(layer, str):
        return layer
    if not isinstance(layer, nn.Module):
        raise TypeError(f"{argument}: expected a module or its name, got {type(layer).__name__}")
    for name, module in model.named_modules():
        if module is layer and name:
            return name
    what = "the model itself" if layer is model else f"a {type(layer).__name__} that is not in it"
    raise ValueError(f"{argument}: expected a module inside the model, got {what}")


def resolve(model: nn.Module, argument: str, name: str) -> nn.Module:
    """The module of that name.

    Raises:
        ValueError: there is none, or its output cannot be seen.
    """
    module = model
    so_far = ""
    for part in name.split("."):
        if is_compiled(module) or is_opaque(module):
            what = "TorchScript" if is_opaque(module) else "compiled"
            inside = f"'{so_far}', which is {what}" if so_far else "a model compiled as a whole"
            raise ValueError(
                f"{argument}: '{name}' lies in {inside}: its output cannot be seen; tap the "
                f"{what} module itself, or let it hold the part of the model up to the layer only"
            )
        child = module._modules.get(part)
        if child is None:
            raise ValueError(f"{argument}: the model has no module '{name}'{_hint(model, name)}")
        module = child
        so_far = f"{so_far}.{part}" if so_far else part
    if getattr(module, "_compiled_call_impl", None) is not None:
        raise ValueError(
            f"{argument}: '{name}' was compiled in place, which hides its output; "
            "use the wrapper that torch.compile(module) returns"
        )
    return module


def _hint(model: nn.Module, name: str) -> str:
    names = [known for known, _ in model.named_modules() if known]
    close = [known for known in names if name and known.endswith("." + name)]
    close += [known for known in difflib.get_close_matches(name, names, 3) if known not in close]
    if close:
        return "; did you mean " + " or ".join(f"'{known}'" for known in close[:3]) + "?"
    return f"; expected a name of model.named_modules(), such as {names[:3]}" if names else ""
