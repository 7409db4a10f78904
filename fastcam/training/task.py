"""A training step and a validation (Lightning's module): labels, Grad-CAM, metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy, MultilabelAccuracy

from fastcam._util.dropout import BatchShare
from fastcam._util.seeds import derive_seed
from fastcam._util.tensors import versioned
from fastcam.data.batches import Batch, on_grid
from fastcam.data.labelled import attribute_index
from fastcam.evaluation.cam_maps import attention_maps
from fastcam.evaluation.classes import judged_columns, targets_of
from fastcam.evaluation.given import check_batch, judged_right
from fastcam.evaluation.metrics import CamEnergy, CamIoU
from fastcam.evaluation.splits import inputs_of
from fastcam.losses.reduce import averaged
from fastcam.models import Checkpoint
from fastcam.training.accumulate import Accumulation
from fastcam.training.config import TrainConfig
from fastcam.training.data import FolderBatches
from fastcam.training.group_dro import GroupDRO
from fastcam.training.guidance import Guidance
from fastcam.training.history import Examination
from fastcam.training.nonfinite import ADVICE, NonfiniteSteps, TrainingDiverged
from fastcam.training.objective import (
    LabelLoss,
    Part,
    attribute_loss,
    multiclass_loss,
    multilabel_loss,
)
from fastcam.training.optimizers import lay_out, optimizer_of, schedule_of


class AttributeTask(LightningModule):
    """Trains a checkpoint's model as a :class:`TrainConfig` says, on any images with labels.

    :func:`fastcam.training.train` runs it with history, resumption and checkpoint; in a trainer of
    your own it takes any data loader or data module of :class:`fastcam.data.batches.Batch`::

        task = AttributeTask(Checkpoint(model, "resnet18", names), TrainConfig(guidance=guidance))
        Trainer(max_epochs=3).fit(task, train_loader, valid_loader)

    A batch's ``regions`` are those of the guidance's targets, in their order; without guidance none
    are needed.

    With ``accumulate`` above 1 it optimises by itself (Lightning's manual optimization), a step a
    batch. Without, a Trainer with ``accumulate_grad_batches`` takes the mean of the batches' means:
    of guidance that is not the mean over all their pairs, and each batch counts as a call of
    :class:`fastcam.Balance`.

    Args:
        checkpoint: the model, the names of its logits, and whether these are classes of which an
            image has one.
        config: optimiser, schedule, guidance. What concerns files and data is not used here.
        loss: of the logits [N, K] and labels [N, K] of 0 and 1; None is the model's own loss where
            it has one (:class:`fastcam.models.ModelSpec`), otherwise the cross entropy: binary, or
            of classes the softmax's.

    Logged in training: ``train/loss``, ``train/loss_a``, ``train/lr``, ``train/grad_norm`` (before
    clipping), ``train/skipped`` (1 for a batch without a step, where the configuration lets batches
    be skipped), the parts of a model's own loss where it has one (``train/loss_binary``, …) and,
    with guidance, ``train/loss_g``, ``train/dead`` (share of the guided maps that are all zero),
    ``train/ratio`` (of the gradients of labels and guidance, :class:`fastcam.Balance`) and, with
    the IoU loss, ``train/sharpness``. With several losses, loss_g and ratio are the first one's;
    ``train/loss_g_energy``, ``train/ratio_energy``, … are the others'. In validation:
    ``valid/loss`` (cross entropy, mean over images and attributes, whatever the model is trained
    with), ``valid/accuracy`` (mean over attributes; of classes the share of images whose class is
    chosen) and, with guidance targets (a control included), ``valid/accuracy_target``, and
    ``valid/energy``, ``valid/iou`` and ``valid/dead`` over the targets' positives, at the model's
    own layer.

    Raises:
        ValueError: an attribute or a layer that the model does not have, or a loss beside the
            model's own; in training, batches of another form, labels beyond [0, 1], or a loader
            without any.
        TrainingDiverged: in training, the gradient is not finite (see ``config.nonfinite``; a GPU
            is asked every 50 steps), or the validation loss is not.
    """

    def __init__(
        self, checkpoint: Checkpoint, config: TrainConfig, loss: LabelLoss | None = None
    ) -> None:
        super().__init__()
        self.model: nn.Module = checkpoint.model
        self.checkpoint, self.config = checkpoint, config
        if hasattr(self.model, "training_loss") and (loss is not None or checkpoint.exclusive):
            raise ValueError(
                "loss: this model has one of its own, of attributes that an image has in any"
                " combination; expected no other, and no classes"
            )
        self._valid_loss = multiclass_loss if checkpoint.exclusive else multilabel_loss
        self._loss = loss or self._valid_loss
        self.guidance: Guidance | None = None
        if config.guidance is not None and config.guided:
            self.guidance = Guidance(
                config.guidance,
                self.model,
                checkpoint.spec,
                checkpoint.attributes,
                self._loss,
                checkpoint.exclusive,
            )
        self.names = [a for a, _ in config.guidance.targets] if config.guidance is not None else []
        self.targets = [
            attribute_index(checkpoint.judged, name, "the checkpoint judges") for name in self.names
        ]
        if config.group_dro is not None:
            if self._loss is not multilabel_loss or hasattr(self.model, "training_loss"):
                raise ValueError(
                    "group_dro: it takes the place of the binary cross entropy; expected no other "
                    "loss, no classes, and a model without a loss of its own"
                )
            self._loss = GroupDRO(
                checkpoint.attributes, self.names[0], config.group_dro, config.group_step
            )
        #: Of this process, where dropout is shared among processes or the parts of a batch.
        self.share = BatchShare(0, 1)
        #: Whether it is in a Trainer of the user's, whose processes draw for themselves.
        self.alone = True
        self._batch = 0
        #: Numbers that the last step has logged, 0-d on their devices.
        self.logged: dict[str, Tensor] = {}
        self.accumulation: Accumulation | None = None
        if config.accumulate > 1:
            self.automatic_optimization = False
            self.accumulation = Accumulation(
                config.accumulate, checkpoint, self._loss, self.guidance, self.share, self.draw
            )
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.nonfinite = NonfiniteSteps(self, skip=config.nonfinite == "skip")
        self.val_accuracy = _accuracy(len(checkpoint.attributes), checkpoint.exclusive)
        self.val_means = nn.ModuleDict(
            {
                "loss": MeanMetric(),
                "accuracy_target": MeanMetric(),
                "energy": CamEnergy(),
                "iou": CamIoU(config.guidance.threshold if config.guidance else 0.5),
                "dead": MeanMetric(),
            }
        )

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self.model, self.config, scaled=self._scaled)
        schedule = schedule_of(optimizer, self.config, self._total_steps())
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def _scaled(self) -> bool:
        """Whether a GradScaler scales the losses, and leaves out steps that overflow."""
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def draw(self) -> None:
        """Make dropout a function of (seed, step): a resumed run and a control draw the same."""
        numbers = [2, self.trainer.global_step]
        if self.alone and (self.trainer.accumulate_grad_batches > 1 or self.global_rank):
            # A step then has several batches, or others have it, too; train() sees to its own.
            numbers += [self._batch, self.global_rank]
        seed = derive_seed(self.config.seed, *numbers)
        if self.device.type not in ("cpu", "cuda"):
            torch.manual_seed(seed)
            return
        # That formats a traceback for each kind of device that is not in use, in every step.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)

    def on_fit_start(self) -> None:
        if self.trainer.gradient_clip_val is not None:
            raise ValueError(
                "gradient_clip_val: expected None beside AttributeTask, which clips by "
                f"TrainConfig.clip, got {self.trainer.gradient_clip_val}"
            )

    def configure_callbacks(self) -> list[Any]:
        return [Examination(self.examine)] if self.alone else []  # train() has a history

    def on_train_start(self) -> None:
        for optimizer in self.trainer.optimizers:
            lay_out(optimizer)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._batch = batch_idx
        check_batch(batch, self.checkpoint, self.guidance is not None, first=batch_idx == 0)
        self.draw()
        self.nonfinite.before_step()
        data: Any = getattr(self.trainer, "datamodule", None)
        folder = isinstance(data, FolderBatches)
        self.share.images = data.images_in(batch_idx) if folder else len(batch["labels"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self.guidance is not None:
            self.guidance.set_progress(self._progress())
        loss: Tensor | None = None
        if self.accumulation is None:
            loss, record = self._losses(batch)
        else:
            self.optimizers().zero_grad()  # type: ignore[union-attr]
            record = self.accumulation.backward(self, batch, self._losses)
        record = averaged(record)
        # Numbers of the host stay there: copying one to a GPU would wait for it.
        record["train/lr"] = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
        if self.guidance is not None and self.guidance.sharpness is not None:
            record["train/sharpness"] = torch.tensor(self.guidance.sharpness)
        self._note(record, batch_size=len(batch["labels"]))
        if self.accumulation is not None:
            self.optimizers().step()  # type: ignore[union-attr]
            schedule: Any = self.lr_schedulers()
            if schedule is not None:
                schedule.step()
        return loss

    def _note(self, record: Mapping[str, Tensor], **options: Any) -> None:
        """Log numbers of a step. What train() keeps of them it takes from here: Lightning's log
        costs as much of the host's time as a small network's forward."""
        self.logged |= {name: value.detach() for name, value in record.items()}
        if self.alone:
            self.log_dict(dict(record), on_step=True, on_epoch=False, **options)

    def _losses(self, batch: Batch, part: Part | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """What is to be minimised of a batch, or of a part of one, and what is logged of it."""
        images, labels = self._inputs(batch)
        record: dict[str, Any] = {}
        if self.guidance is None:
            attributes = attribute_loss(self.model, images, labels, self._loss, part)
            loss = self.config.w_a * attributes.loss
        else:
            attributes, term = self.guidance(
                images, labels, batch["regions"], self.config.w_a, part
            )
            loss = term.total
            record |= {f"train/{name}": value for name, value in term.record().items()}
        record |= {"train/loss": loss.detach(), "train/loss_a": attributes.loss.detach()}
        record |= {f"train/loss_{name}": value for name, value in attributes.parts.items()}
        return loss, record

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels = inputs_of(self.checkpoint, batch)
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if not self.automatic_optimization:  # which clips by itself
            self.configure_gradient_clipping(optimizer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run may go on with another ``accumulate``: Lightning counts the steps of automatic and
        of manual optimization apart."""
        loop = checkpoint.get("loops", {}).get("fit_loop", {})
        manual = loop.get("epoch_loop.manual_optimization.optim_step_progress", {})
        automatic = loop.get("epoch_loop.automatic_optimization.optim_progress", {})
        for counted in (manual, automatic.get("optimizer", {}).get("step", {})):
            if "total" in counted:
                steps = checkpoint["global_step"]
                counted["total"] |= {"ready": steps, "completed": steps}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        limit = self.config.clip or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self._note({"train/grad_norm": norm})
        if self.nonfinite.skip:
            skipped = not bool(norm.isfinite())
            self._note({"train/skipped": torch.tensor(float(skipped))})
            if skipped:
                self.nonfinite.undo_step(optimizer)

    def examine(self, record: Mapping[str, float]) -> None:
        """Look at what a step has logged, once it has been read from the device.

        Args:
            record: the metrics named above, and ``step``, counted from 1.

        Raises:
            TrainingDiverged: the gradient's norm is not finite, and this is not skipped.
        """
        self.nonfinite.examine(record, self._total_steps(), self._scaled)
        if self.guidance is not None:
            self.guidance.examine(record["train/ratio"])

    def _total_steps(self) -> int:
        """Steps of the run; 0 where the data do not say how many there are."""
        # Not the trainer's own count where ours is known: asking for it before a resumed run has
        # restored its position makes the loader of the wrong epoch.
        known = getattr(getattr(self.trainer, "datamodule", None), "steps", None)
        if known is not None:
            return int(known) * (self.trainer.max_epochs or 1)
        count = self.trainer.estimated_stepping_batches
        return int(count) if 0 < count < math.inf else 0

    def _progress(self) -> float:
        """Share of the run that is done: 0 in the first step, 1 in the last."""
        return self.trainer.global_step / max(self._total_steps() - 1, 1)

    def on_train_epoch_end(self) -> None:
        loop: Any = self.trainer.fit_loop.epoch_loop
        if not loop.batch_progress.current.ready:
            raise ValueError(
                f"train: expected a loader that gives batches anew in each epoch, got none in epoch"
                f" {self.trainer.current_epoch + 1} (an iterator is used up after the first)"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        check_batch(batch, self.checkpoint, False, first=batch_idx == 0)
        # Maps need gradients, also in a trainer that validates in inference mode: copies made
        # outside of it may have them.
        with torch.inference_mode(False), torch.no_grad():
            given: Any = batch
            self._validate(
                {k: versioned(v) if isinstance(v, Tensor) else v for k, v in given.items()}
            )

    def _validate(self, batch: Any) -> None:
        images, labels = self._inputs(batch)
        if not len(images):  # of several processes one may have none
            return
        means: Any = self.val_means
        checkpoint = self.checkpoint
        if not self.names or "regions" not in batch:
            logits = self.model(images)
        else:
            targets = targets_of(checkpoint, self.names, labels)
            maps = attention_maps(self.model, images, targets, checkpoint.spec, checkpoint.scores)
            logits, regions = maps.logits, on_grid(batch["regions"], maps.cams.shape[-2:])
            columns = judged_columns(checkpoint, logits, labels)
            scores, truth = (column[:, self.targets] for column in columns)
            means["accuracy_target"].update(judged_right(scores, truth))
            positive = (truth > 0.5) & regions.flatten(2).any(-1)
            means["dead"].update(maps.dead[positive].float())
            for name in ("energy", "iou"):
                means[name].update(maps.cams, regions, positive)
        means["loss"].update(self._valid_loss(logits, labels), len(labels))
        if checkpoint.exclusive:
            self.val_accuracy.update(logits.argmax(1), labels.argmax(1))
        else:
            self.val_accuracy.update(logits.sigmoid(), labels.int())

    def on_validation_start(self) -> None:
        # The processes of the trainer share a validation, and no others: one may validate alone.
        for metric in (*self.val_means.values(), self.val_accuracy):
            metric.distributed_available_fn = self._has_several  # type: ignore[union-attr,assignment]
        if self._has_several() and not self.automatic_optimization:
            # Manual optimization has DistributedDataParallel leave out what it does in a forward.
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _has_several(self) -> bool:
        return self.trainer.world_size > 1

    def on_validation_epoch_end(self) -> None:
        means: Any = self.val_means
        called = torch.tensor([means[name].update_called for name in means], device=self.device)
        if self._has_several():
            called = self.trainer.strategy.reduce(called.int(), reduce_op="sum") > 0
        seen = [name for name, was in zip(means, called.tolist(), strict=True) if was]
        if "loss" not in seen:
            raise ValueError(
                "valid: expected a loader that gives images anew in each validation, got none (an"
                " iterator is used up after the first)"
            )
        record = {f"valid/{name}": means[name].compute() for name in seen}
        record["valid/accuracy"] = self.val_accuracy.compute()
        loss = float(record["valid/loss"])
        if not math.isfinite(loss):
            when = f"after step {self.trainer.global_step} of {self._total_steps() or 'many'}"
            if self.trainer.state.fn != TrainerFn.FITTING and self.trainer.global_step == 0:
                when = "before the first step: the model that the run starts from is damaged"
            raise TrainingDiverged(f"the validation loss became {loss} {when}; {ADVICE}")
        with torch.inference_mode(False):  # the next validation adds to them outside of it, too
            for metric in (*means.values(), self.val_accuracy):
                metric.reset()
        self.log_dict(record)


def _accuracy(attributes: int, exclusive: bool) -> Any:
    """The mean accuracy: of attributes, or of the chosen class."""
    if exclusive:
        return MulticlassAccuracy(num_classes=attributes, average="micro")
    if attributes == 1:
        return BinaryAccuracy()
    return MultilabelAccuracy(num_labels=attributes, average="macro")
