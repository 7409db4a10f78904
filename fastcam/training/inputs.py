"""What a run starts from: its network, and its images in batches."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from fastcam._util.modules import evaluating
from fastcam._util.progress import Report
from fastcam._util.seeds import derive_seed
from fastcam.data import Augment, DataFolder, RegionCutout, open_folder
from fastcam.data.batches import Collate
from fastcam.data.choices import OWN_CLASS
from fastcam.data.labelled import attribute_index
from fastcam.evaluation.splits import Prepared, prepare_split
from fastcam.models import (
    Checkpoint,
    build,
    grid_size,
    load_checkpoint,
    model_spec,
    spec_at,
)
from fastcam.models.checkpoint import Preprocessing
from fastcam.models.registry import options_for
from fastcam.models.spec import passing
from fastcam.training.config import AUTO, NOTHING, OUTSIDE, GuidanceConfig, TrainConfig
from fastcam.training.data import FolderBatches


def initial_checkpoint(
    config: TrainConfig, attributes: list[str], exclusive: bool = False
) -> Checkpoint:
    """The model that a run starts from: the checkpoint it names, or a new one from its seed.

    Args:
        config: the settings.
        attributes, exclusive: of the data, see :class:`fastcam.data.labelled.Images`.

    Raises:
        ValueError: the data lack an attribute that the checkpoint judges, or that was asked for.
    """
    if config.start is not None:
        checkpoint = load_checkpoint(config.start, config.architecture)
        guided = config.guidance and config.guidance.target_layer
        if guided and not checkpoint.spec.target_layer:
            checkpoint.target_layer = guided  # it has no other
        lost = [name for name in checkpoint.attributes if name not in attributes]
        if lost:
            raise ValueError(
                f"{config.start} was trained on other attributes than {config.data} has:"
                f" {len(lost)} of its {len(checkpoint.attributes)} are missing there"
                f" ({', '.join(lost[:3])}, …)"
            )
        return checkpoint
    if config.attributes is not None and not exclusive:  # of classes all are told apart
        for name in config.attributes:
            attribute_index(attributes, name)
        attributes = list(config.attributes)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(config.seed, 0))
        options = options_for(config.model, config.model_options, config.size)
        model = build(config.model, len(attributes), options, config.weights)
    spec = model_spec(config.model)
    return Checkpoint(
        model,
        config.model,
        attributes,
        Preprocessing(config.size, config.fit, spec.mean, spec.std),
        model_options=options,
        exclusive=exclusive,
    )


#: A side in pixels that passes through any network.
_SURELY_LARGE = 512


def check_size(checkpoint: Checkpoint) -> None:
    """Refuse images that are too small for the network, before all are read.

    Raises:
        ValueError: they do not pass through it.
    """
    side = checkpoint.preprocessing.size
    if side > _SURELY_LARGE:
        return
    like = next(checkpoint.model.parameters())
    images = torch.zeros(1, 3, side, side, dtype=like.dtype, device=like.device)
    try:
        with evaluating(checkpoint.model), torch.no_grad(), passing((side, side)):
            checkpoint.model(images)
    except ValueError as error:
        raise ValueError(f"size: {error}") from None


def open_data(config: TrainConfig) -> DataFolder:
    """The folder of a run's images.

    Raises:
        ValueError, FileNotFoundError: as :func:`fastcam.data.open_folder`; or a region that the
            data do not have.
    """
    if not config.data:
        raise ValueError("data: expected a folder of images with labels, or batches")
    folder = open_folder(config.data, landmarks=config.landmarks, regions=config.regions)
    for text in config.guided_regions:
        folder.region(text)
    if config.without not in (NOTHING, OUTSIDE):
        try:
            folder.region(config.without)
        except ValueError as error:
            others = f"or one of {OUTSIDE!r}, {NOTHING!r} and {AUTO!r}, alone"
            raise ValueError(f"without: {error}; {others}") from None
    return folder


def prepare(
    config: TrainConfig,
    checkpoint: Checkpoint,
    split: str,
    progress: Report | None = None,
    folder: DataFolder | None = None,
) -> Prepared:
    """A split as the model takes it."""
    training = split == "train"
    return prepare_split(
        checkpoint,
        folder or open_data(config),
        split,
        regions=drawn_regions(config) if training else config.guided_regions,
        limit=config.limit_train if training else config.limit_valid,
        cache=config.cache,
        workers=config.workers,
        progress=progress,
    )


def augmentation(config: TrainConfig, images: Prepared) -> Augment | None:
    """What a run does to its training images, cut-out included; None for nothing."""
    cutout = None
    if hidden := _hidden(config):
        region: Any = images.region(hidden)
        cutout = RegionCutout(region, config.hide_share, outside=config.without == OUTSIDE)
    if config.augment == "none" and cutout is None:
        return None
    return Augment(config.augment, cutout)


def drawn_regions(config: TrainConfig) -> list[str]:
    """The regions that are drawn of training images: those of the guidance, and what is hidden."""
    hidden = _hidden(config)
    return [*config.guided_regions, *([hidden] if hidden else [])]


def _hidden(config: TrainConfig) -> str | None:
    """The region that is hidden in training images, or of which all around it is."""
    if config.without == NOTHING:
        return None
    guided = config.guided_regions
    return ",".join(guided) if config.without == OUTSIDE else config.without


def _collate(
    config: TrainConfig,
    checkpoint: Checkpoint,
    images: Prepared,
    layer: str | None,
    augment: Augment | None = None,
) -> Collate:
    """Draws the guided regions on the grid of a layer, None for the model's own."""
    guidance, side = config.guidance, checkpoint.preprocessing.size
    if guidance is None:
        return Collate(augment=augment)
    model, spec = checkpoint.model, checkpoint.spec
    chosen = layer or spec.target_layer
    grid = grid_size(model, spec_at(model, spec, chosen), (side, side))
    if config.guided and grid == (1, 1):
        raise ValueError(
            f"target_layer: expected a layer whose map has several cells, got {chosen!r} with one"
            f" at {side} pixels; `fastcam layers` lists others, or train at a larger size"
        )
    regions = [images.region(text) for text in guidance.regions]
    return Collate(regions, grid, guidance.grid, augment)


#: Images that are looked at together for one that is guided.
_LOOKED_AT = 16


def _check_guided(guidance: GuidanceConfig, images: Prepared, collate: Collate) -> None:
    """Make sure that there is something to guide.

    Raises:
        ValueError: no image that is guided shows its region, of any target; the message says why.

    Warns:
        UserWarning: the same of some of several targets.
    """
    said = []
    for (attribute, text), region in zip(guidance.targets, collate.regions, strict=True):
        rows = list(range(len(images)))
        if guidance.guide == "positives" and attribute != OWN_CLASS:
            rows = images.labels[:, images.attribute(attribute)].nonzero().flatten().tolist()
        draw = Collate([region], collate.grid_size, collate.mode)
        some = (rows[i : i + _LOOKED_AT] for i in range(0, len(rows), _LOOKED_AT))
        if any(draw([images[row] for row in part])["regions"].numpy().any() for part in some):
            continue
        of = "" if len(rows) == len(images) else f" with {attribute}"
        if not rows:
            said.append(f"there is no training image{of}")
            continue
        counts = images.sources_of(rows)
        have = max(
            counts.get(name, len(rows)) for name in getattr(region, "names", None) or (text,)
        )
        if have:
            said.append(
                f"of {len(rows)} training images{of} {have} have {text}, all empty in what the"
                f" network is shown ({images.size} pixels, fit {images.fit!r})"
            )
        else:
            said.append(f"none of {len(rows)} training images{of} has {text}")
    if len(said) == len(guidance.targets):
        raise ValueError(f"guidance: nothing would be guided: {'; '.join(said)}")
    for sentence in said:
        warnings.warn(f"guidance: {sentence}", stacklevel=3)


def folder_batches(
    config: TrainConfig,
    checkpoint: Checkpoint,
    folder: DataFolder,
    progress: Report | None = None,
) -> FolderBatches:
    """Training and validation batches of a run, with the regions of its guidance.

    Raises:
        ValueError: nothing would be guided; and as :func:`prepare`.
    """
    train, valid = (prepare(config, checkpoint, s, progress, folder) for s in ("train", "valid"))
    layer = config.guidance.target_layer if config.guidance else None
    collate = _collate(config, checkpoint, train, layer, augmentation(config, train))
    if config.guidance is not None and config.guided:
        _check_guided(config.guidance, train, collate)
    return FolderBatches(
        train,
        valid,
        batch_size=config.batch_size,
        seed=config.seed,
        collate=collate,
        valid_collate=_collate(config, checkpoint, valid, None),
        workers=config.workers,
        parts=config.accumulate,
    )
