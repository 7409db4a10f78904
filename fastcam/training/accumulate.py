"""A step whose batch is taken in parts, one after the other: its gradient is that of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from fastcam._util.dropout import BatchShare, shared_dropout
from fastcam.data.batches import Batch, labels_of
from fastcam.evaluation.splits import inputs_of
from fastcam.losses.reduce import world_size
from fastcam.models import Checkpoint
from fastcam.training.guidance import Guidance
from fastcam.training.objective import LabelLoss, Part

#: What a step logs: the losses of the parts add up, the others are the same in all.
_SAME = "train/ratio"


def split(batch: Batch, parts: int) -> list[Batch]:
    """Every ``parts``-th image of a batch, from the first, from the second, and so on.

    As many of them as have images, and at least one.
    """
    given: Any = batch
    count = max(1, min(parts, len(batch["labels"])))
    return [Batch(**{k: v[n::parts].contiguous() for k, v in given.items()}) for n in range(count)]


class Accumulation:
    """Backpropagates batches in parts.

    The gradient is that of the whole batch to rounding, of all processes together: the losses are
    divided by counts of the whole batch, and :class:`fastcam.Balance` measures all parts before
    the first is weighed, for which they are run ahead where it measures. A label loss that is no
    mean over images but is reduced by itself (:class:`fastcam.training.GroupDRO`) is differentiated
    at the logits of the whole batch, for which the parts are run ahead in each step. Not so what a
    network does over the images of a batch, as batch norm, and what it draws itself, but for the
    masks of shared dropout (:func:`fastcam._util.dropout.shared_dropout`).

    Args:
        parts: into how many a batch is divided.
        checkpoint: what the batches are for.
        loss: of the labels.
        guidance: or None.
        share: of this process, which tells dropout what images a part has.
        draw: seeds the random generator for the step; called before each part, so that each draws
            the dropout of the whole batch, and takes its images' rows.
    """

    def __init__(
        self,
        parts: int,
        checkpoint: Checkpoint,
        loss: LabelLoss,
        guidance: Guidance | None,
        share: BatchShare,
        draw: Callable[[], None],
    ) -> None:
        self.parts, self.share, self.draw = parts, share, draw
        self._checkpoint, self._loss, self._guidance = checkpoint, loss, guidance

    def backward(
        self,
        task: LightningModule,
        batch: Batch,
        losses: Callable[[Batch, Part], tuple[Tensor, dict[str, Tensor]]],
    ) -> dict[str, Tensor]:
        """Add a batch's gradients to those that there are.

        Args:
            task: the module, under manual optimization.
            batch: of this process.
            losses: of a part: what is to be minimised, and what is logged.

        Returns:
            What is logged of the whole batch.
        """
        found = split(batch, self.parts)
        parts = self._described(task, batch, found)
        balance = None if self._guidance is None else self._guidance.balance
        if balance is not None:
            if balance.due:
                with buffers_kept(task):
                    for number, part in enumerate(found):
                        with self._drawn(number):
                            losses(part, replace(parts[number], ahead=True))
            balance.update()
        record: dict[str, Tensor] = {}
        for number, part in enumerate(found):
            last = number == len(found) - 1
            with self._drawn(number):  # the backward, too, which may run parts of it again
                loss, values = losses(part, parts[number])
                # Outside of autocast, as Lightning's own backward is.
                with nullcontext() if last else _alone(task), _full_precision(loss):
                    task.manual_backward(loss)
            for name, value in values.items():
                known = record.get(name)
                adds = known is not None and not name.startswith(_SAME)
                record[name] = known + value if adds else value  # type: ignore[operator]
        return record

    @contextmanager
    def _drawn(self, number: int) -> Iterator[None]:
        self.draw()
        # A trainer of somebody else's has not made it shared: all parts would draw alike.
        shared = shared_dropout(self._checkpoint.model, self.share)
        with shared, self.share.part(number, self.parts):
            yield

    def _described(self, task: Any, batch: Batch, found: list[Batch]) -> list[Part]:
        """What divides the parts' losses, counted over the processes at once."""
        labels = batch["labels"]
        counts = {"": torch.full((), len(labels), device=labels.device)}
        if self._guidance is not None:
            of = self._checkpoint
            columns = labels_of(batch, len(of.attributes), of.exclusive)
            counts |= self._guidance.pairs(columns, batch["regions"])
        together = torch.stack(list(counts.values()))
        world = world_size()
        if world > 1:
            dist.all_reduce(together)
        images, *pairs = together.clamp(min=1).unbind()
        names = list(counts)[1:]
        own_loss = hasattr(self._checkpoint.model, "training_loss")
        if hasattr(self._loss, "sync") and not own_loss:
            own = self._tangents(task, found)
            return [Part(1.0, dict(zip(names, pairs, strict=True)), loss) for loss in own]
        shares = [len(part["labels"]) * world / images for part in found]
        return [Part(share, dict(zip(names, pairs, strict=True))) for share in shares]

    def _tangents(self, task: Any, found: list[Batch]) -> list[LabelLoss]:
        """For each part a loss with the gradient that the loss of all has at its logits."""
        logits, labels = [], []
        with torch.no_grad(), buffers_kept(task):
            for number, part in enumerate(found):
                with self._drawn(number):
                    images, of_part = inputs_of(self._checkpoint, part)
                    logits.append(self._checkpoint.model(images))
                labels.append(of_part)
        torch.clear_autocast_cache()  # torch 2.10 would take weights from it that have no graph
        whole = torch.cat(logits)
        whole = whole.to(torch.promote_types(whole.dtype, torch.float32)).requires_grad_()
        with torch.enable_grad():
            loss = self._loss(whole, torch.cat(labels))
        (gradient,) = torch.autograd.grad(loss, whole)
        value = loss.detach() / len(found)
        return [_tangent(rows, value) for rows in gradient.split([len(part) for part in labels])]


def _tangent(gradient: Tensor, value: Tensor) -> LabelLoss:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        linear = (gradient * logits.to(gradient.dtype)).sum()
        return value + (linear - linear.detach())

    return loss


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Within it a forward leaves no trace in the buffers, as batch norm's means of the run."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def _alone(task: LightningModule) -> AbstractContextManager[None]:
    """Without the all-reduce of the gradients, which the last part's backward does for all."""
    strategy: Any = task.trainer.strategy
    blocked = getattr(strategy, "block_backward_sync", nullcontext)
    return blocked()


def _full_precision(loss: Tensor) -> AbstractContextManager[Any]:
    return torch.autocast(loss.device.type, enabled=False)
