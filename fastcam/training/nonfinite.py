"""NaN and infinity in a training: steps that are skipped or stop it, the weights, the error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn

ADVICE = "lower the learning rate, or the pull of the guidance; keep the gradient's norm clipped"

#: So many skipped batches in a row are no accident.
MOST_SKIPPED = 10

# So many steps in a row that the scaler leaves out: from 2^16 it has then halved to 2^-14.
_OVERFLOWS = 30


class TrainingDiverged(ArithmeticError):
    """The loss, its gradient or the weights are NaN or infinite."""


class NonfiniteSteps:
    """What becomes of steps whose gradient is not finite.

    Args:
        module: whose buffers stay as they were before a skipped step.
        skip: leave such a step out, until there are too many in a row; otherwise the first ends
            the training (:attr:`fastcam.training.TrainConfig.nonfinite`).
    """

    def __init__(self, module: nn.Module, skip: bool) -> None:
        self.module, self.skip = module, skip
        self._in_a_row = 0
        self._buffers: dict[str, Tensor] = {}

    def before_step(self) -> None:
        if self.skip:
            self._buffers = {name: value.clone() for name, value in self.module.named_buffers()}

    def undo_step(self, optimizer: Any) -> None:
        """Called before the optimizer's step, which then moves nothing.

        Of several processes all decide alike: they have the same gradient.
        """
        optimizer.zero_grad()  # what has no gradient is not moved
        for name, buffer in self.module.named_buffers():
            buffer.copy_(self._buffers[name])

    def examine(self, record: Mapping[str, float], steps: int, scaled: bool) -> None:
        """Look at what a step has logged, once it has been read from the device.

        Args:
            record: ``step``, counted from 1, ``train/grad_norm`` and the losses of the step.
            steps: of the training; 0 if that is not known.
            scaled: whether the losses are scaled (float16). Then a gradient that is not finite
                is no more than a step left out, for which the scale was too high, unless a loss
                is not finite, too, or all scales are too high.

        Raises:
            TrainingDiverged: the gradient's norm is not finite, and this is not skipped; names the
                step and the part of the loss that it comes from.
        """
        if math.isfinite(record["train/grad_norm"]):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        parts = [("train/loss_a", "attribute loss")]
        parts += [(key, "Grad-CAM loss") for key in record if key.startswith("train/loss_g")]
        most = MOST_SKIPPED if self.skip else 1
        if scaled and all(math.isfinite(record[key]) for key, _ in parts):
            most = _OVERFLOWS
        if self._in_a_row < most:
            return
        parts += [("train/grad_norm", "gradient")]
        part, value = next(
            (name, record[key]) for key, name in parts if not math.isfinite(record[key])
        )
        step = f"step {int(record['step'])} of {steps or 'many'}"
        if self._in_a_row > 1:
            step += f", as in the {self._in_a_row - 1} skipped ones before"
        raise TrainingDiverged(f"the {part} became {value} in {step}; {ADVICE}")


def check_weights(model: nn.Module, when: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        TrainingDiverged: naming the first such weight and ``when``.
    """
    for name, value in chain(model.named_parameters(), model.named_buffers()):
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise TrainingDiverged(f"the weights ({name}) are not finite {when}; {ADVICE}")
