"""The Lightning module: attribute loss, Grad-CAM loss, validation metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as nnf
from torchmetrics import MeanMetric
from torchmetrics.classification import MultilabelAccuracy

from fastcam._util.seeds import derive_seed
from fastcam.data.batches import Batch
from fastcam.data.celeba import attribute_index
from fastcam.evaluation.cam_maps import attention_maps
from fastcam.evaluation.metrics import CamEnergy, CamIoU, judged_right
from fastcam.models import Checkpoint
from fastcam.training.config import TrainConfig
from fastcam.training.diverged import ADVICE, TrainingDiverged
from fastcam.training.group_dro import GroupDRO
from fastcam.training.guidance import Guidance
from fastcam.training.objective import attribute_loss


class AttributeTask(LightningModule):
    """Trains a checkpoint's model as a :class:`TrainConfig` says.

    Logged in training: ``train/loss``, ``train/loss_a``, ``train/lr``, ``train/grad_norm`` (before
    clipping), the parts of a model's own loss where it has one (``train/loss_binary``, …) and, with
    guidance, ``train/loss_g``, ``train/dead`` (share of the guided maps that are all zero),
    ``train/ratio`` (of the gradients of labels and guidance, :class:`fastcam.Balance`) and, with
    the IoU loss, ``train/sharpness``. With several losses, loss_g and ratio are the first one's;
    ``train/loss_g_energy``, ``train/ratio_energy``, … are the others'. In validation:
    ``valid/loss`` (binary cross entropy, mean over images and attributes, whatever the model is
    trained with), ``valid/accuracy`` (mean over attributes) and, with guidance targets (a control
    included), ``valid/accuracy_target``, and ``valid/energy``, ``valid/iou`` and ``valid/dead``
    over the targets' positives, at the model's own layer.
    """

    def __init__(self, checkpoint: Checkpoint, config: TrainConfig) -> None:
        super().__init__()
        self.model: nn.Module = checkpoint.model
        self.preprocessing = checkpoint.preprocessing
        self.spec = checkpoint.spec
        self.config = config
        attributes = checkpoint.attributes
        self.guidance: Guidance | None = None
        if config.guidance is not None and config.guided:
            self.guidance = Guidance(config.guidance, self.model, self.spec, attributes)
        pairs = config.guidance.targets if config.guidance is not None else ()
        self.targets = [attribute_index(attributes, a) for a, _ in pairs]
        self.groups: GroupDRO | None = None
        if config.group_dro is not None:
            if hasattr(self.model, "training_loss"):
                raise ValueError("group_dro: expected a model without a loss of its own")
            self.groups = GroupDRO(attributes, pairs[0][0], config.group_dro, config.group_step)
        self.val_accuracy = MultilabelAccuracy(num_labels=len(attributes), average="macro")
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
        c = self.config
        optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=c.lr,
            momentum=c.momentum,
            weight_decay=c.weight_decay,
            fused=True,  # one pass over weights, gradients and momenta
        )
        if c.schedule == "constant":
            return optimizer
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self._total_steps())
        schedule = {"scheduler": cosine, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout becomes a function of (seed, step): a resumed run and a control draw the same
        # masks.
        torch.manual_seed(derive_seed(self.config.seed, 2, self.trainer.global_step))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images = self.preprocessing.normalize(batch["image"])
        labels = batch["labels"]
        record: dict[str, Any] = {}
        if self.guidance is None:
            attributes = attribute_loss(self.model, images, labels, self.groups)
            loss = self.config.w_a * attributes.loss
        else:
            self.guidance.set_progress(self._progress())
            attributes, term = self.guidance(images, labels, batch["regions"], self.config.w_a)
            loss = term.total
            record |= {f"train/{name}": value for name, value in term.record().items()}
            if self.guidance.sharpness is not None:
                record["train/sharpness"] = torch.tensor(self.guidance.sharpness)
        # Numbers of the host stay there: copying one to a GPU would wait for it.
        record["train/lr"] = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
        record |= {"train/loss": loss.detach(), "train/loss_a": attributes.loss.detach()}
        record |= {f"train/loss_{name}": part for name, part in attributes.parts.items()}
        self.log_dict(record, on_step=True, on_epoch=False, batch_size=len(labels))
        return loss

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        limit = self.config.clip or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.log("train/grad_norm", norm, on_step=True, on_epoch=False)

    def examine(self, record: Mapping[str, float]) -> None:
        """Look at what a step has logged, once it has been read from the device.

        Args:
            record: the metrics named above, and ``step``, counted from 1.

        Raises:
            TrainingDiverged: the gradient's norm is not finite; names the step and the part of the
                loss that it comes from.
        """
        if not math.isfinite(record["train/grad_norm"]):
            parts = [("train/loss_a", "attribute loss")]
            parts += [(key, "Grad-CAM loss") for key in record if key.startswith("train/loss_g")]
            parts += [("train/grad_norm", "gradient")]
            part, value = next(
                (name, record[key]) for key, name in parts if not math.isfinite(record[key])
            )
            step = f"step {int(record['step'])} of {self._total_steps()}"
            raise TrainingDiverged(f"the {part} became {value} in {step}; {ADVICE}")
        if self.guidance is not None:
            self.guidance.examine(record["train/ratio"])

    def _total_steps(self) -> int:
        # Not the trainer's own count: asking for it before a resumed run has restored its position
        # makes the loader of the wrong epoch.
        batches: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return int(batches.steps) * (self.trainer.max_epochs or 1)

    def _progress(self) -> float:
        """Share of the run that is done: 0 in the first step, 1 in the last."""
        return self.trainer.global_step / max(self._total_steps() - 1, 1)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images = self.preprocessing.normalize(batch["image"])
        labels = batch["labels"]
        means: Any = self.val_means
        if not self.targets:
            logits = self.model(images)
        else:
            maps = attention_maps(self.model, images, self.targets, self.spec)
            logits = maps.logits
            truth = labels[:, self.targets] > 0.5
            means["accuracy_target"].update(
                judged_right(logits[:, self.targets], labels[:, self.targets])
            )
            positive = truth & batch["regions"].flatten(2).any(-1)
            means["dead"].update(maps.dead[positive].float())
            for name in ("energy", "iou"):
                means[name].update(maps.cams, batch["regions"], positive)
        means["loss"].update(nnf.binary_cross_entropy_with_logits(logits, labels), len(labels))
        self.val_accuracy.update(logits.sigmoid(), labels.int())

    def on_validation_epoch_end(self) -> None:
        means: Any = self.val_means
        seen = [name for name in means if means[name].update_called]
        record = {f"valid/{name}": means[name].compute() for name in seen}
        record["valid/accuracy"] = self.val_accuracy.compute()
        loss = float(record["valid/loss"])
        if not math.isfinite(loss):
            when = f"after step {self.trainer.global_step} of {self._total_steps()}"
            if self.trainer.state.fn != TrainerFn.FITTING and self.trainer.global_step == 0:
                when = "before the first step: the model that the run starts from is damaged"
            raise TrainingDiverged(f"the validation loss became {loss} {when}; {ADVICE}")
        for metric in (*means.values(), self.val_accuracy):
            metric.reset()
        self.log_dict(record)
