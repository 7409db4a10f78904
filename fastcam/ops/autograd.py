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


_WHAT_CAN = "fastcam.reference holds the same functions in plain PyTorch, which can"

_task = getattr(torch._C, "_current_graph_task_id", None)


def running_backward() -> int:
    """Which backward runs now, as a number; -1 for none, or where this torch does not tell."""
    return -1 if _task is None else int(_task())


class _Undifferentiable(torch.autograd.Function):
    """Identity of all but the first argument, whose backward says that there is none."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(
            "fastcam's fused ops cannot be differentiated twice (their gradient was taken with "
            f"create_graph=True and then differentiated); {_WHAT_CAN}"
        )


def _batched() -> bool:
    """Whether ``torch.autograd.grad(..., is_grads_batched=True)`` runs this backward."""
    if not hasattr(torch._C, "_vmapmode_increment_nesting"):
        return False
    level = torch._C._vmapmode_increment_nesting()  # there is no other way to ask
    torch._C._vmapmode_decrement_nesting()
    return level > 1


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a Function's ``backward``: a second differentiation raises instead of giving zero.

    ``torch.autograd.function.once_differentiable`` raises only if the incoming gradient itself
    requires grad; a plain gradient penalty would silently lose this op's part.
    """

    @wraps(backward)
    def wrapper(ctx: Any, *grads: Tensor | None) -> Any:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return backward(ctx, *grads)
        if _batched():
            raise RuntimeError(  # a batch of is_grads_batched would lose the mark made below
                "fastcam's fused ops cannot be differentiated twice, so is_grads_batched=True does "
                f"not go with create_graph=True here; {_WHAT_CAN}"
            )
        with torch.no_grad():
            results = backward(ctx, *grads)
        tensors = [r for r in results if isinstance(r, Tensor)]
        leaf = torch.empty(0, requires_grad=True)  # makes the results require grad
        marked = iter(_Undifferentiable.apply(leaf, *tensors) if tensors else ())
        return tuple(next(marked) if isinstance(r, Tensor) else r for r in results)

    return wrapper
