"""What is done to modules in several places: built, put in eval mode, asked for a layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def evaluating(
    model: nn.Module, device: str | torch.device | None = None
) -> Iterator[torch.device]:
    """``model`` in eval mode, on ``device`` if one is named; undone at the end of the block.

    Every submodule gets back its own mode and the model its device, also after an exception.
    Gradients are recorded or not as outside.

    Args:
        model: all of its parameters on one device.
        device: where the model is in the block; None leaves it where it is.

    Yields:
        Where it is then (the CPU, if it has no parameters and no device is named).
    """
    first = next(model.parameters(), None)
    home = None if first is None else first.device
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        if device is not None:
            model.to(device)
        yield torch.device(device if device is not None else home or "cpu")
    finally:
        if device is not None and home is not None:
            model.to(home)
        for module, mode in modes:
            module.training = mode


def last_linear(model: nn.Module) -> nn.Linear | None:
    """The last linear layer in the order of ``model.modules()``; None if there is none."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return layers[-1] if layers else None


class UninitializedWeights(TorchFunctionMode):
    """Within it the functions of ``torch.nn.init`` leave tensors as they are.

    For a model whose weights are all replaced at once: AlexNet's random ones take a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)
