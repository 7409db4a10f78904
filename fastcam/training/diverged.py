"""Diverged runs: the error, and the check of the weights."""

from __future__ import annotations

from itertools import chain

from torch import nn

ADVICE = "lower the learning rate, or the pull of the guidance; keep the gradient's norm clipped"


class TrainingDiverged(ArithmeticError):
    """The loss, its gradient or the weights are NaN or infinite."""


def check_weights(model: nn.Module, when: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        TrainingDiverged: naming the first such weight and ``when``.
    """
    for name, value in chain(model.named_parameters(), model.named_buffers()):
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise TrainingDiverged(f"the weights ({name}) are not finite {when}; {ADVICE}")
