"""Images with their Grad-CAM and scores, for some checkpoints side by side."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from fastcam._util import checks as check
from fastcam._util.architecture import Architecture
from fastcam._util.modules import evaluating
from fastcam._util.names import printable
from fastcam._util.progress import Count
from fastcam.data import FitSquare
from fastcam.data.celeba import decode
from fastcam.data.folder import ImageMasks
from fastcam.data.labelled import attribute_index
from fastcam.evaluation.cam_maps import ScoresNotFinite, attention_maps, check_scores
from fastcam.evaluation.given import name_checkpoints
from fastcam.evaluation.splits import Prepared
from fastcam.models import Checkpoint, load_checkpoint
from fastcam.regions import Region, template_landmarks
from fastcam.regions.detect import FaceDetector
from fastcam.report.faces import ExplainedFace, faces_figure
from fastcam.report.figure import check_figure_path, save_figure

#: Images beside one another in the figure of files; the next ones stand below.
ACROSS = 10


def explain(
    checkpoints: Mapping[str, Checkpoint],
    image: Tensor,
    attribute: str,
    rectangles: np.ndarray | None = None,
    caption: str = "",
    mask: np.ndarray | None = None,
    own: int | None = None,
) -> ExplainedFace:
    """What classifiers see in one image.

    Args:
        checkpoints: by name; all of the same input size.
        image: uint8 [3, S, S] at their input size.
        attribute: whose Grad-CAM is drawn; of classes also ``own_class``, that of the image where
            ``own`` says it, and of each classifier's own choice where it does not.
        rectangles: the region, [R, 4] in pixels of ``image``.
        caption: stands above the image.
        mask: the region as a mask, float32 [S, S] in [0, 1], in place of ``rectangles``.
        own: position of the image's class.
    """
    cams, scores, judged = {}, {}, {}
    for name, checkpoint in checkpoints.items():
        target = attribute_index(checkpoint.judged, attribute, f"{name} judges")
        pixels = checkpoint.preprocessing.normalize(image.as_subclass(Tensor)[None])
        with evaluating(checkpoint.model, "cpu"):
            if target == len(checkpoint.attributes):
                with torch.no_grad():
                    target = int(checkpoint.model(pixels)[0].argmax()) if own is None else own
                judged[name] = checkpoint.attributes[target]
            maps = attention_maps(
                checkpoint.model, pixels, [target], checkpoint.spec, checkpoint.scores
            )
        try:
            check_scores(maps.logits)
        except ScoresNotFinite as error:
            raise ScoresNotFinite(f"{name}: {error}") from None
        cams[name] = maps.cams[0, 0].numpy()
        scores[name] = float(checkpoint.scores(maps.logits)[0, target].sigmoid())
    return ExplainedFace(
        image=image.as_subclass(Tensor).permute(1, 2, 0).numpy(),
        cams=cams,
        scores=scores,
        rectangles=np.zeros((0, 4), np.float32) if rectangles is None else rectangles,
        caption=caption,
        mask=mask,
        judged=judged,
    )


def explain_dataset(
    checkpoints: Mapping[str, Checkpoint],
    faces: Prepared,
    indices: Sequence[int],
    attribute: str,
    *,
    region: str | None = None,
    captions: Sequence[str] | None = None,
) -> list[ExplainedFace]:
    """What classifiers see in some images of a data set, with the region of each."""
    chosen: Any = None if region is None else faces.region(region)
    result = []
    for position, index in enumerate(indices):
        sample = faces[index]
        boxes = mask = None
        if isinstance(chosen, Region):
            boxes = chosen.rectangles(sample["landmarks"].as_subclass(Tensor)[None].numpy())[0]
        elif chosen is not None:
            size = (faces.size, faces.size)
            mask = chosen.grid(sample["masks"].as_subclass(Tensor)[None].numpy(), size, size)[0]
        caption = captions[position] if captions else printable(faces.names[index])
        own = int(sample["labels"].argmax())
        found = explain(checkpoints, sample["image"], attribute, boxes, caption, mask, own)
        result.append(found)
    return result


def explain_image(
    checkpoints: Mapping[str, Checkpoint],
    path: str | Path,
    attribute: str,
    *,
    region: str | None = None,
    landmarks: np.ndarray | None = None,
    masks: str | Path | ImageMasks | None = None,
) -> ExplainedFace:
    """What classifiers see in an image file.

    Args:
        checkpoints: by name; all of the same input size and fit.
        path: an image file of any kind that Pillow reads.
        attribute: whose Grad-CAM is drawn.
        region: drawn in blue.
        landmarks: [68, 2] in pixels of the file; None takes the template face's.
        masks: in place of a face's regions: where the file's mask lies, see
            :class:`fastcam.data.folder.ImageMasks`; or that of several files. A file without one
            gets no outline.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, or an unknown attribute or region.
    """
    path = _file(path)
    preprocessing = next(iter(checkpoints.values())).preprocessing
    image = decode(path.read_bytes(), str(path))
    height, width = image.shape[-2:]
    points = template_landmarks(width, height) if landmarks is None else landmarks
    key_points = tv_tensors.KeyPoints(
        torch.from_numpy(np.array(points, np.float32)), canvas_size=(height, width)
    )
    square, moved = FitSquare(preprocessing.size, preprocessing.fit)(image, key_points)
    boxes = mask = None
    if masks is not None and region is not None:
        source = masks if isinstance(masks, ImageMasks) else ImageMasks([path], masks)
        chosen, found = source.read(path, region, (height, width))
        layers = tv_tensors.Image(torch.from_numpy(found))
        moved_masks = FitSquare(preprocessing.size, preprocessing.fit)(layers, key_points)[0]
        size = (preprocessing.size, preprocessing.size)
        mask = chosen.grid(moved_masks.as_subclass(Tensor)[None].numpy(), size, size)[0]
    elif region is not None:
        boxes = Region.parse(region).rectangles(moved.as_subclass(Tensor)[None].numpy())[0]
    return explain(checkpoints, square, attribute, boxes, printable(path.name), mask)


def _file(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"image {printable(str(path))} is a folder; name files")
    if not path.is_file():
        raise FileNotFoundError(f"image {printable(str(path))} does not exist")
    return path


def explain_files(
    checkpoints: Sequence[str | Path],
    images: Sequence[str | Path],
    attribute: str,
    out: str | Path,
    *,
    region: str | None = None,
    regions: str | Path | None = None,
    detect: bool = False,
    threshold: float = 0.5,
    architecture: Architecture | None = None,
    progress: Count | None = None,
) -> Path:
    """Draw what the classifiers of some checkpoints see in some image files.

    Args:
        checkpoints: files as :func:`fastcam.models.save_checkpoint` writes them.
        images: files of any kind that Pillow reads; of aligned faces, unless ``regions`` is given.
        attribute: whose Grad-CAM is drawn.
        out: file to write: PNG, JPEG, SVG or PDF, as its suffix says.
        region: outlined in blue.
        regions: where the images' masks lie, see :class:`fastcam.data.folder.ImageMasks`; None
            takes the images for faces. An image without a mask of the region gets no outline.
        detect: find each face's landmarks with dlib; a face that is not found, or without
            ``detect``, gets the template's.
        threshold: cells above it are outlined in red.
        architecture: of the checkpoints that are files of weights alone, and the layer whose
            Grad-CAM is drawn.
        progress: called with (done, total).

    Returns:
        ``out`` as a Path.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file of the wrong kind, an unknown name, a threshold outside (0, 1), or
            checkpoints that take images of different sizes or fits.
        FileExistsError: ``out`` is a file that fastcam did not write.
        ImportError: ``detect`` without dlib.
    """
    check.fraction("threshold", threshold)
    check_figure_path(out)
    paths = name_checkpoints(checkpoints).items()
    models = {name: load_checkpoint(path, architecture) for name, path in paths}
    taken = {n: f"{m.preprocessing.size} px, {m.preprocessing.fit}" for n, m in models.items()}
    if len(set(taken.values())) > 1:
        listed = "; ".join(f"{name}: {what}" for name, what in taken.items())
        raise ValueError(f"the checkpoints take images of different sizes or fits ({listed})")
    files = [_file(path) for path in images]
    detector = FaceDetector() if detect else None
    masks = ImageMasks(files, regions) if regions is not None and region is not None else None
    faces = []
    for number, path in enumerate(files):
        points = None
        if detector is not None:
            pixels = decode(path.read_bytes(), str(path)).permute(1, 2, 0).numpy()
            points = detector(np.ascontiguousarray(pixels))
            if points is None:
                warnings.warn(
                    f"no face found in {printable(str(path))}: the template's region", stacklevel=2
                )
        faces.append(
            explain_image(models, path, attribute, region=region, landmarks=points, masks=masks)
        )
        if progress is not None:
            progress(number + 1, len(files))
    figure = faces_figure(faces, threshold=threshold, title=attribute, across=ACROSS)
    return save_figure(figure, out)
