"""What a training run is, in plain values: the same settings give the same run."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from fastcam._util import checks as check
from fastcam._util.architecture import Architecture
from fastcam._util.names import did_you_mean, parts
from fastcam._util.settings import deciding
from fastcam.cam.heads import Head
from fastcam.data.choices import Augmentation, Fit
from fastcam.losses.cam import CAM_LOSSES, WeightGrad
from fastcam.ops.cam_loss import Binarize
from fastcam.regions import Region, template_landmarks

Schedule = Literal["constant", "cosine"]

#: docs/results.md has what these do, what other values do, and on which faces they were chosen.
PULL = 1.0
#: The loss beside a pull; beside a fixed weight it is the paper's.
LOSSES, PAPER_LOSSES = ("energy",), ("iou",)
MAX_PAIR_PULL = 1.0
#: ``without`` hides what these name: all but the guided regions, nothing, or as guidance has it.
OUTSIDE, NOTHING, AUTO = "outside", "nothing", "auto"
#: Where a fine-tuning differs from the defaults of :class:`TrainConfig`: it is short, in small
#: batches, and what guidance draws toward is all that a quarter of the images show.
FINETUNE: dict[str, Any] = {"epochs": 1, "patience": 0, "batch_size": 32, "without": AUTO}
#: Where a training of a new network differs: it teaches it from a few thousand images, where the
#: paper's settings are for many. The passes follow from how many images there are.
SCRATCH: dict[str, Any] = {"epochs": None, "patience": 0, "batch_size": 32, "schedule": "cosine"}
#: Passes where the settings leave them open: so many, or as many as make so many steps.
PASSES, STEPS = 8, 600
#: What follows from the network, and the passes, in words.
FOUND = {
    "size": "224; of attention 64",
    "lr": "0.1; of alexnet and vgg 0.05, with --weights 0.01",
    "clip": "1; of attention 5",
    "epochs": f"{PASSES}, or more for {STEPS} steps",
}
_OF_NETWORKS: dict[str, dict[str, Any]] = {
    "alexnet": {"lr": 0.05},
    "attention": {"size": 64, "clip": 5.0},  # its loss is a sum over attributes
    "vgg": {"lr": 0.05},
}


def of_network(model: str, weights: str | None = None) -> dict[str, Any]:
    """What a training of a new network takes by its kind, in place of SCRATCH alone.

    Args:
        model: its name.
        weights: what it starts with, if anything; what is learnt already wants a low rate.

    Returns:
        ``size``, ``lr`` and ``clip``.
    """
    found = {"size": 224, "lr": 0.1, "clip": 1.0}
    for name, own in _OF_NETWORKS.items():
        if model.removeprefix("timm:").startswith(name):
            found |= own
    return found if weights is None else {**found, "lr": 0.01}


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


#: What a number has to be, in words and as a test.
_Range = tuple[str, Callable[[float], bool]]
_ABOVE_0: _Range = ("above 0 and finite", lambda x: 0 < x < math.inf)
_AT_LEAST_0: _Range = ("of at least 0 and finite", lambda x: 0 <= x < math.inf)
_AT_LEAST_1: _Range = ("of at least 1 and finite", lambda x: 1 <= x < math.inf)
_SHARE: _Range = ("in [0, 1]", lambda x: 0 <= x <= 1)


def _check_numbers(config: object, ranges: Mapping[str, _Range]) -> None:
    for name, (expected, fits) in ranges.items():
        check.number(name, getattr(config, name), expected, fits)


def _check_counts(config: object, names: Iterable[str], least: int) -> None:
    """Whole numbers; None stays None."""
    for name in names:
        if (value := getattr(config, name)) is not None:
            check.whole(name, value, least)


def _check_choices(config: object) -> None:
    """Every field of a Literal type holds one of the type's values."""
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal:
            check.one_of(name, getattr(config, name), get_args(kind))


def _covered(region: str, by: str) -> float:
    """The share of a region that another one covers, on the template face.

    Of masks it is not known before their files are: 1 where all names are the same, else 0.
    """
    size = (256, 256)
    face = template_landmarks(*size)[None]
    try:
        own, other = (Region.parse(text).grid(face, size, size) for text in (region, by))
    except ValueError:
        return float(set(parts(region)) <= set(parts(by)))
    return float(np.minimum(own, other).sum() / own.sum()) if own.any() else 0.0


@dataclass(frozen=True)
class GuidanceConfig:
    """Where the network shall look, and how hard it is told so (Yang et al., eq. 1 and 2).

    The texts below are also the help of ``fastcam finetune``.

    Attributes:
        targets: (attribute, region) pairs. Of faces, regions are as
            :meth:`fastcam.regions.Region.parse` reads them; of other data, names of masks with
            commas between. Where an image has one of several classes, the attribute ``own_class``
            is that of each image.
        losses: losses of the map, one or more: ``iou``, ``energy``, ``center``, ``l1``, ``ppce`` or
            ``outside``, see docs/method.md. ``energy=0.3`` has a pull of its own; of several, each
            draws as hard as its pull says. ``energy`` beside ``pull`` and ``iou`` (Yang et al.)
            beside ``w_g``, where none is given.
        pull: how hard a loss draws on the guided layer, relative to the labels
            (:class:`fastcam.Balance`); 1 where neither ``pull`` nor ``w_g`` is given. 0 makes a
            control: guidance is off, whatever the losses' own pulls, and the rest of the run as it
            is. Above 2 accuracy is at risk.
        w_g: a fixed weight of the one loss in place of ``pull``, as in Yang et al., eq. 1; 0 makes
            a control, too. None is safe for every network: prefer ``pull``.
        guide: ``"positives"`` guides the images that have the attribute, ``"all"`` every image,
            ``"true_class"`` every image by the map of its true answer: of the negated score where
            the attribute is absent.
        region_weight: cells of the region weigh so much, others 1 (Yang et al., section 3.1: the
            mouth weighs three times the rest).
        threshold: iou: share of a map's peak from which a cell counts as attended.
        sharpness: iou: how sharply cells are told apart at the threshold (1: linear).
        binarize: iou: how a map is binarised at the threshold, see :class:`fastcam.IoUCamLoss`.
        weight_grad: ``"full"``, or ``"detach"`` (channel weights held constant).
        head: how the gradient of the scores is had; ``"mean_dropout"`` is cheaper and approximate,
            see :class:`fastcam.IoUCamLoss`.
        max_pair_pull: the gradient of a single image's map is cut down to this, so that one image
            does not outvote a batch; 0 leaves it. 1 beside ``pull`` and 0 beside ``w_g``, where it
            is not given.
        sharpness_warmup: iou: raise the sharpness linearly from 1 to its value over the run. A low
            sharpness has gradients where the map is far from the region, so that fewer maps start
            dead.
        recalibrate: after the last step, re-fit the bias of each guided attribute's score to the
            validation images (where ten have the attribute and ten lack it). Guidance shifts how
            often a network says yes; this takes it back, in a control too, so that what is left of
            a gain is no shifted threshold.
        target_layer: guide the Grad-CAM of this layer in place of the model's own: a shallower one
            has a finer grid (``fastcam layers`` lists them). Validation, ``fastcam evaluate`` and
            ``fastcam explain`` measure at the model's own layer as before, so that runs compare;
            the checkpoint's history holds the guided one.
        grid: how a rectangle becomes cells, see :meth:`fastcam.regions.Region.grid`.

    Raises:
        TypeError, ValueError: a value is of the wrong type or out of range; the message names it.
    """

    targets: tuple[tuple[str, str], ...]
    losses: tuple[str, ...] = ()
    pull: float | None = None
    w_g: float | None = None
    guide: Literal["positives", "all", "true_class"] = "positives"
    region_weight: float = 3.0
    threshold: float = 0.5
    sharpness: float = 8.0
    binarize: Binarize = "tone"
    weight_grad: WeightGrad = "full"
    head: Head = "auto"
    max_pair_pull: float | None = None
    sharpness_warmup: bool = True
    recalibrate: bool = True
    target_layer: str | None = None
    grid: Literal["coverage", "binary"] = "coverage"

    def __post_init__(self) -> None:
        _check(len(self.targets) > 0, "targets: expected at least one (attribute, region) pair")
        _check(
            self.pull is None or self.w_g is None,
            f"give pull or w_g, not both; got pull {self.pull} and w_g {self.w_g}",
        )
        if self.pull is None and self.w_g is None:
            object.__setattr__(self, "pull", PULL)
        if self.max_pair_pull is None:
            object.__setattr__(self, "max_pair_pull", MAX_PAIR_PULL if self.w_g is None else 0.0)
        weights = [n for n in ("pull", "w_g", "max_pair_pull") if getattr(self, n) is not None]
        _check_numbers(
            self,
            {
                "region_weight": _ABOVE_0,
                "threshold": ("in (0, 1)", lambda x: 0 < x < 1),
                "sharpness": _AT_LEAST_1,
                **dict.fromkeys(weights, _AT_LEAST_0),
            },
        )
        default = LOSSES if self.w_g is None else PAPER_LOSSES
        object.__setattr__(self, "losses", tuple(self.losses) or default)
        own = self._own_pulls()
        _check(
            self.w_g is None or (len(own) == 1 and own == dict.fromkeys(own)),
            f"w_g is the weight of one loss without a pull; got losses {', '.join(self.losses)}",
        )
        _check_choices(self)
        for pair in self.targets:
            if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise TypeError(f"targets: expected pairs of texts, got {pair!r}")

    @property
    def guides(self) -> bool:
        """Whether the Grad-CAM losses take part; False makes a control."""
        return bool(self.pull or self.w_g)

    @property
    def pulls(self) -> dict[str, float]:
        """The losses by name, and the pull of each; 0 beside a fixed weight and in a control."""
        general = self.pull or 0.0
        own = self._own_pulls().items()
        return {n: general if pull is None or not general else pull for n, pull in own}

    def _own_pulls(self) -> dict[str, float | None]:
        """What ``losses`` says: the names, with their own pulls."""
        found: dict[str, float | None] = {}
        for text in self.losses:
            if not isinstance(text, str):
                raise TypeError(f"losses: expected names such as 'energy', got {text!r}")
            name, equals, number = (part.strip() for part in text.partition("="))
            if name not in CAM_LOSSES:
                hint, known = did_you_mean(name, CAM_LOSSES), ", ".join(CAM_LOSSES)
                raise ValueError(f"losses: unknown loss {name!r}{hint}; expected some of {known}")
            _check(name not in found, f"losses: expected no name twice, got {name!r} twice")
            try:
                found[name] = float(number) if equals else None
            except ValueError:
                found[name] = math.nan
            pull = found[name]
            _check(
                pull is None or 0 < pull < math.inf,
                f"losses: expected {name}=PULL with a pull above 0 and finite, got {text!r}",
            )
        return found

    @property
    def regions(self) -> list[str]:
        """The regions, one a target."""
        return [region for _, region in self.targets]


@dataclass(frozen=True)
class TrainConfig:
    """One training or fine-tuning run.

    The defaults are those of Yang et al., section 3.1: SGD, learning rate 0.01, momentum 0.9, batch
    256, early stopping, w_a = 1. They are for many images and a network that knows something:
    :meth:`from_scratch` and :meth:`finetune` take others, as ``fastcam train`` and ``fastcam
    finetune`` do, whose help the texts below are. With ``start``, the checkpoint holds in place of
    ``attributes``, ``model``, ``model_options``, ``size`` and ``fit``.

    Attributes:
        data: folder of images with labels, see :func:`fastcam.data.open_folder`; empty where
            :func:`fastcam.training.train` is given batches.
        start: checkpoint to start from; None trains from scratch.
        architecture: of a ``start`` that is a file of weights alone.
        attributes: names to learn, None for all of the data's. The loss is a mean over attributes,
            so each of few weighs more.
        model: name of the network: alexnet, small or attention, one of torchvision's classifiers
            (resnet50), one of timm's (timm:convnext_tiny), or one that
            :mod:`fastcam.models.registry` was told of.
        weights: what all of a new model but its last layer starts with: a file with a state dict
            (.pt, .pth, .safetensors), or the name of weights of torchvision (IMAGENET1K_V1) or timm
            (DEFAULT, or a tag), which are downloaded.
        model_options: options of a new model by name, JSON values (see
            :attr:`fastcam.models.ModelSpec.options`).
        size: input size in pixels (224 is AlexNet's own).
        fit: ``"crop"`` (centre square), ``"face"`` (closer) or ``"stretch"``.
        epochs: at most so many passes over the training images; None for 8, or as many as make 600
            steps.
        patience: stop after so many epochs in a row without a lower validation loss, and keep the
            best epoch's weights; 0 runs all epochs and keeps the last one's.
        batch_size: images per step.
        optimizer: ``"sgd"``; or, for large batches, ``"lars"`` or ``"lamb"`` of timm, which take
            the step of each layer in proportion to its weights' norm, and learning rates of their
            own: of LARS thousands of times SGD's, of LAMB about Adam's.
        lr: learning rate. The loss is a mean over labels: many bear a higher one than few.
        lr_batch: batch size that ``lr`` is meant for: the rate grows with ``batch_size`` in
            proportion to it; without, ``lr`` is taken as it is.
        momentum: momentum, of LAMB the mean gradient's share.
        weight_decay: weight decay; of LARS and LAMB not of biases and norms.
        schedule: learning rate: ``"constant"``, or ``"cosine"`` (falling to 0 over all epochs,
            which settles a short run).
        warmup: over this share of all steps the learning rate rises evenly, before the schedule.
        clip: the gradient's norm is cut down to this; 0 leaves it. The Grad-CAM loss of a map with
            a tiny peak has a huge gradient, since the map is divided by its peak.
        w_a: weight of the attribute loss: the model's own where it has one, otherwise the binary
            cross entropy, mean over images and attributes.
        augment: ``"none"``, ``"flip"``, or ``"full"`` (flip, small motions, light); regions move
            along. See :class:`fastcam.data.Augment`; batches of your own stay as they are.
        without: hide this region of some training images, so that the network learns to do without
            it: names with commas between (``"left_eye,right_eye"``), ``"outside"`` for all but
            the guided regions, or ``"nothing"``; ``"auto"`` is ``"outside"`` beside a pull, and
            nothing in a control, beside ``w_g`` or with batches of your own. Filled with the
            image's mean colour, after the other augmentation; validation images are never hidden.
            With guidance or, at pull 0, alone.
        hide_share: share of the training images that ``without`` hides.
        group_dro: of a fine-tuning without guidance (pull 0): weigh the four cells of the first
            target's attribute and this one by their losses, so that the worst counts most
            (:class:`fastcam.training.GroupDRO`).
        group_step: by how much these weights move in a step.
        precision: ``"float32"``, or ``"bfloat16"`` for autocast: faster where the processor has it,
            with weights, losses and maps in float32. ``"float16"`` is for GPUs without bfloat16:
            the losses are scaled, and steps that overflow left out.
        nonfinite: what becomes of a batch whose gradient is NaN or infinite: ``"stop"`` ends the
            run with its last good state, ``"skip"`` takes no step with it and counts it; ten in a
            row end the run, too.
        landmarks: of faces: landmark table in place of the data folder's own.
        regions: of other data: where the masks lie, in place of what ``fastcam init`` found: a
            folder with files named after the images, or a file in COCO's format.
        limit_train: only so many training images.
        limit_valid: only so many validation images.
        guidance: where to look, or None.
        seed: fixes initial weights, batch order, augmentation and dropout.
        device: where to compute; ``"auto"`` takes CUDA where there is a device.
        cache: keep the decoded images in a file in the data folder (``.fastcam-cache``; or in the
            folder that the environment variable FASTCAM_CACHE names), so that they are decoded
            once. Without saying so that is done where it takes at most half of the free disk.
            With ``--no-cache`` they are held in memory where half of it is enough, and otherwise
            decoded in every epoch.
        workers: threads that decode images, and loader processes where images are decoded in every
            epoch.
        save_minutes: a running epoch is saved for resumption this often.
        devices: processes on each machine, each with a GPU or a share of the processors; they
            divide each batch among them. Up to rounding the result is that of one, but for batch
            norm, whose statistics are each process's own.
        accumulate: parts that a batch is divided into, one after the other, so that memory is that
            of one part. Up to rounding the result is that of one, but for batch norm, whose
            statistics are each part's own. It costs a little time: with a pull the parts are run
            twice in the steps that measure it.
        channels_last: keep weights and images with the channels last, as many GPUs and processors
            are faster with; the result differs by rounding.
        nodes: machines; with several, or to start the processes otherwise, run the command under
            ``torchrun``, whose numbers then hold.

    Raises:
        TypeError, ValueError: a value is of the wrong type or out of range; the message names it.
    """

    data: str = ""
    start: str | None = None
    architecture: Architecture | None = None
    attributes: tuple[str, ...] | None = None
    model: str = "alexnet"
    weights: str | None = None
    model_options: dict[str, Any] | None = None
    size: int = 224
    fit: Fit = "crop"
    epochs: int | None = 30
    patience: int = 3
    batch_size: int = 256
    optimizer: Literal["sgd", "lars", "lamb"] = "sgd"
    lr: float = 0.01
    lr_batch: int | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    warmup: float = 0.0
    clip: float = 1.0
    w_a: float = 1.0
    augment: Augmentation = "flip"
    without: str = NOTHING
    hide_share: float = 0.25
    group_dro: str | None = None
    group_step: float = 0.01
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    nonfinite: Literal["stop", "skip"] = "stop"
    landmarks: str | None = None
    regions: str | None = None
    limit_train: int | None = None
    limit_valid: int | None = None
    guidance: GuidanceConfig | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata={"result": False})
    cache: bool | None = field(default=None, metadata={"result": False})
    workers: int = field(default=2, metadata={"result": False})
    save_minutes: float = field(default=5.0, metadata={"result": False})
    devices: int = field(default=1, metadata={"result": False})
    accumulate: int = field(default=1, metadata={"result": False})
    channels_last: bool = field(default=False, metadata={"result": False})
    nodes: int = field(default=1, metadata={"result": False})

    def __post_init__(self) -> None:
        counts = ("size", "epochs", "batch_size", "accumulate", "devices", "nodes")
        _check_counts(self, (*counts, "limit_train", "limit_valid", "lr_batch"), 1)
        _check_counts(self, ("patience", "seed", "workers"), 0)
        others = ("weight_decay", "clip", "w_a", "group_step", "save_minutes")
        _check_numbers(
            self,
            {
                "lr": _ABOVE_0,
                "momentum": ("in [0, 1)", lambda x: 0 <= x < 1),
                "hide_share": _SHARE,
                "warmup": ("in [0, 1)", lambda x: 0 <= x < 1),
                **dict.fromkeys(others, _AT_LEAST_0),
            },
        )
        _check(
            self.attributes is None or len(self.attributes) > 0,
            "attributes: expected at least one, or None for all",
        )
        names = self.attributes or ()
        _check(len(set(names)) == len(names), f"attributes: expected no name twice, got {names}")
        self._check_without()
        _check(
            self.group_dro is None or (self.guidance is not None and not self.guided),
            "group_dro takes a from guidance.targets, and pull 0",
        )
        _check_choices(self)
        if self.model_options is not None:  # as they come back from a file
            try:
                options = json.loads(json.dumps(self.model_options))
            except (TypeError, ValueError) as error:
                raise ValueError(f"model_options: expected JSON values: {error}") from None
            object.__setattr__(self, "model_options", options or None)
        _check(
            self.start is None or self.weights is None,
            "weights are for a new model, not beside a checkpoint to start from",
        )
        for name in ("data", "start", "landmarks", "regions", "weights"):  # a Path will do
            value = getattr(self, name)
            if isinstance(value, Path):
                object.__setattr__(self, name, str(value))

    def _check_without(self) -> None:
        if self.without == AUTO:
            pulls = self.guidance is not None and bool(self.guidance.pull)
            # Batches of one's own hide for themselves.
            object.__setattr__(self, "without", OUTSIDE if pulls and self.data else NOTHING)
        if self.without == NOTHING:
            return
        guided = self.guided_regions
        if self.without == OUTSIDE:
            _check(bool(guided), f"without {OUTSIDE!r} hides all but the guided regions; none is")
            return
        hidden = self.without
        for region in guided if self.guided else []:
            share = _covered(region, hidden)
            said = f"without {hidden} hides {share:.0%} of the guided region {region}"
            _check(share < 0.5, f"{said}: the network cannot look there; guide or hide, not both")
            if share > 0.05:
                warnings.warn(f"{said} (on the mean face)", stacklevel=4)

    @classmethod
    def from_scratch(
        cls,
        data: str | Path = "",
        model: str = "alexnet",
        weights: str | None = None,
        **changes: Any,
    ) -> TrainConfig:
        """A training of a new network as ``fastcam train`` does it, see ``SCRATCH``.

        Args:
            data: folder of images with labels; empty where ``train`` is given batches.
            model, weights: the network; its rate, size and clipping follow from them.
            changes: other settings than the defaults for that.

        Raises:
            ValueError: an optimizer of large batches without a rate, or as of the class.
        """
        optimizer = changes.get("optimizer", "sgd")
        _check(
            optimizer == "sgd" or "lr" in changes,
            f"lr: {optimizer} has rates of its own; expected one beside it",
        )
        settings = {**SCRATCH, **of_network(model, weights), **changes}
        return cls(data=str(data), model=model, weights=weights, **settings)

    @classmethod
    def finetune(
        cls, start: str | Path, data: str | Path, guidance: GuidanceConfig, **changes: Any
    ) -> TrainConfig:
        """A fine-tuning as ``fastcam finetune`` does it, see ``FINETUNE``.

        Args:
            start: checkpoint to start from.
            data: folder of images with labels.
            guidance: where to look.
            changes: other settings than the defaults for fine-tuning.
        """
        return cls(data=str(data), start=str(start), guidance=guidance, **{**FINETUNE, **changes})

    @property
    def guided(self) -> bool:
        """Whether the Grad-CAM loss takes part."""
        return self.guidance is not None and self.guidance.guides

    @property
    def guided_regions(self) -> list[str]:
        """The regions of the guidance, one a target; none without it."""
        return [] if self.guidance is None else self.guidance.regions

    def settings(self) -> dict[str, Any]:
        """The settings that decide the result, as JSON values."""
        values = deciding(self)
        if values["guidance"] is not None:
            values["guidance"]["targets"] = [list(t) for t in values["guidance"]["targets"]]
            values["guidance"]["losses"] = list(values["guidance"]["losses"])
        if values["attributes"] is not None:
            values["attributes"] = list(values["attributes"])
        return values
