"""Where images, labels and regions lie in a folder: what ``fastcam.json`` says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastcam._util.files import json_with, read_json, write_json

CONFIG = "fastcam.json"
FORMAT = "fastcam-data"
#: What folders of images and of masks are called, in any case.
IMAGE_FOLDERS = ("images", "imgs", "img", "image", "photos", "jpegimages", "data")
MASK_FOLDERS = ("masks", "mask", "segmentations", "segmentation", "regions", "annotations")
_KEYS = ("format", "images", "labels")
is_layout = json_with(*_KEYS)


@dataclass(frozen=True)
class FolderLayout:
    """Where everything lies in a folder of images; paths are relative to the folder.

    Labels come from ``labels`` or ``classes`` of the ``table``; without a table from the categories
    of ``coco``; without that from the images' folders: each of the outermost ones, below those of
    the splits and those that all images share, is a class.

    Attributes:
        images: folder of the images; those in folders in it belong to them.
        table: CSV or TSV with a row an image, or None.
        file: column that names the images, with or without suffix.
        labels: columns of 0 and 1, which an image has or not, in any combination.
        classes: in place of ``labels``: the column with the one class of an image.
        split: column that says train, valid or test. Without it, folders of these names say so;
            without them, the hash of the image's name: 80, 10 and 10 of a hundred.
        group: column whose equal cells stay in one split (the patient, the site), where the hash
            decides; a blank cell says of no group.
        regions: by name, the path of an image's mask, with ``{stem}`` for the image's file name
            without suffix and ``{name}`` for its path without suffix:
            ``masks/{stem}.png``, ``masks/wing/{stem}.png``, ``masks/{stem}_wing.png``. Where masks
            lie beside the folders of their images, ``{above}/masks/{below}.png`` parts the path of
            ``train/images/ant/1.jpg`` into ``train`` and ``ant/1``. Of a label map,
            ``trimaps/{stem}.png=1,3`` takes the values 1 and 3. An image without a mask has no such
            region.
        coco: annotation files in COCO's format, whose categories are regions, too.
    """

    images: str = "images"
    table: str | None = None
    file: str | None = None
    labels: tuple[str, ...] = ()
    classes: str | None = None
    split: str | None = None
    group: str | None = None
    regions: Mapping[str, str] = field(default_factory=dict)
    coco: tuple[str, ...] = ()

    def save(self, root: str | Path) -> Path:
        """Write ``fastcam.json`` into the folder.

        Raises:
            FileExistsError: a file of that name is there which fastcam did not write.
        """
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        return write_json(Path(root) / CONFIG, values, ours=is_layout)

    @classmethod
    def load(cls, root: str | Path) -> FolderLayout:
        """Read the folder's ``fastcam.json``.

        Raises:
            ValueError: it is damaged, or says what is not known; the message names the file.
        """
        path = Path(root) / CONFIG
        values = read_json(path, "description of a data folder (`fastcam init`)", _KEYS)
        del values["format"]
        kinds = {"regions": dict, "labels": list, "coco": list}
        for name, value in values.items():
            if name not in {f.name for f in dataclasses.fields(cls)}:
                raise ValueError(f"{path}: {name!r} is unknown")
            inner = value.values() if isinstance(value, dict) else value
            if name in kinds:
                fits = isinstance(value, kinds[name]) and all(isinstance(v, str) for v in inner)
                what = "texts by name" if name == "regions" else "a list of texts"
            else:
                fits, what = value is None or isinstance(value, str), "a text"
            if not fits:
                raise ValueError(f"{path}: {name}: expected {what}, got {value!r}")
        for name in ("labels", "coco"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)
