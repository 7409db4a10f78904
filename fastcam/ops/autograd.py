"""What the autograd Functions of fastcam share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_function_transforms: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: False
)


def refuse_transforms(loss: object, advice: str = "") -> None:
    """ValueError inside a function transform, for a loss that takes gradients of the logits."""
    if transformed():
        raise ValueError(
            f"logits: {type(loss).__name__} takes gradients with torch.autograd, which does not "
            f"work inside torch.func transforms and forward-mode differentiation{advice}"
        )


def transformed() -> bool:
    """Whether torch.func (grad, vmap, jvp, ...) or forward-mode differentiation is at work.

    Both want to see every operation. The fused ops then give way to :mod:`fastcam.reference`, which
    is plain PyTorch: rules of their own for each transform would cost every other call time.
    """
    return _function_transforms() or forward_ad._current_level >= 0


_task = getattr(torch._C, "_current_graph_task_id", None)


def running_backward() -> int:
    """Which backward runs now, as a number; -1 for none, or where this torch does not tell."""
    return -1 if _task is None else int(_task())


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a Function's ``backward``: it raises where its own gradient is wanted.

    ``torch.autograd.function.once_differentiable`` raises only if the incoming gradient itself
    requires grad; a plain gradient penalty would silently lose this op's part. Nothing is saved
    that leads to the op's inputs, so that a second differentiation by ``torch.autograd.grad``,
    which visits only what lies between, could not be noticed when it comes.
    """

    @wraps(backward)
    def wrapper(ctx: Any, *grads: Tensor | None) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "fastcam's fused ops cannot be differentiated twice, so a backward through them "
                "does not go with create_graph=True; fastcam.reference holds the same functions in "
                "plain PyTorch, which can. A loss of the map of a network that has them, as the "
                "attention network does, takes weight_grad='detach'"
            )
        return backward(ctx, *grads)

    return wrapper
