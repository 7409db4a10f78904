"""The cached landmarks of a data set: one file beside the images."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastcam._util.files import write_atomic
from fastcam._util.names import printable

_ARRAYS = ("name", "landmarks", "source", "size")


class LandmarkSource(IntEnum):
    """Where a face's landmarks come from."""

    DLIB = 0
    FIVE_POINTS = 1
    TEMPLATE = 2  # no face was found
    GROUND_TRUTH = 3


@dataclass(frozen=True, eq=False)
class LandmarkTable:
    """Landmarks of N images, by name.

    Attributes:
        name: text [N], the images' names, each once.
        landmarks: float32 [N, 68, 2], in pixels of the stored image.
        source: uint8 [N], :class:`LandmarkSource`.
        size: int32 [N, 2], width and height of the stored image.

    Raises:
        ValueError: arrays that do not fit each other, a repeated name, an unknown source.
    """

    name: NDArray[np.str_]
    landmarks: NDArray[np.float32]
    source: NDArray[np.uint8]
    size: NDArray[np.int32]

    def __post_init__(self) -> None:
        name = _array("name", self.name)
        if name.size == 0:
            name = name.astype(np.str_)
        if name.ndim != 1 or name.dtype.kind != "U":
            raise ValueError(f"name: expected text [N], got {name.dtype} {list(name.shape)}")
        count = len(name)
        object.__setattr__(self, "name", name)
        for field, dtype, shape in (
            ("landmarks", np.float32, (count, 68, 2)),
            ("source", np.uint8, (count,)),
            ("size", np.int32, (count, 2)),
        ):
            array = _array(field, getattr(self, field))
            if array.shape != shape:
                raise ValueError(
                    f"{field}: expected shape {list(shape)} for {count} names, "
                    f"got {list(array.shape)}"
                )
            if array.dtype.kind not in "fiu":
                raise ValueError(f"{field}: expected numbers, got {array.dtype}")
            object.__setattr__(self, field, array.astype(dtype, copy=False))
        if count and self.source.max() > max(LandmarkSource):
            raise ValueError(
                f"source: expected 0 to {max(LandmarkSource)}, got {self.source.max()}"
            )
        ordered = self._sorted[0]
        repeated = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(repeated):
            raise ValueError(
                f"name: expected no name twice, got {printable(str(ordered[repeated[0]]))!r} twice"
            )

    def __len__(self) -> int:
        return len(self.name)

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.str_], NDArray[np.intp]]:
        order = np.argsort(self.name, kind="stable")
        return self.name[order], order

    def _find(self, wanted: NDArray[np.str_]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Row of each wanted name, and whether it is there at all."""
        if not len(self):
            return np.zeros(len(wanted), np.intp), np.zeros(len(wanted), np.bool_)
        ordered, order = self._sorted
        place = np.searchsorted(ordered, wanted).clip(max=len(self) - 1)
        return order[place], ordered[place] == wanted

    def contains(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each name is in the table: bool [M]."""
        return self._find(np.asarray(names, dtype=np.str_))[1]

    def lookup(self, names: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Landmarks and their sources for images in any order, repeats allowed.

        Args:
            names: M names.

        Returns:
            float32 [M, 68, 2] and uint8 [M], new arrays.

        Raises:
            KeyError: names that are not in the table; the message counts them and shows some.
        """
        wanted = np.asarray(names, dtype=np.str_)
        rows, found = self._find(wanted)
        if not found.all():
            missing = wanted[~found]
            some = ", ".join(map(printable, missing[:3])) + (", ..." if len(missing) > 3 else "")
            raise KeyError(f"{len(missing)} of {len(wanted)} images have no landmarks: {some}")
        return self.landmarks[rows], self.source[rows]

    def select(self, names: Sequence[str]) -> LandmarkTable:
        """The table of these images, in this order (KeyError as in :meth:`lookup`)."""
        landmarks, source = self.lookup(names)
        wanted = np.asarray(names, dtype=np.str_)
        return LandmarkTable(wanted, landmarks, source, self.size[self._find(wanted)[0]])

    def counts(self) -> dict[str, int]:
        """How many images have landmarks from each source: ``{"dlib": 974, "template": 26}``."""
        found = np.bincount(self.source, minlength=len(LandmarkSource))
        return {kind.name.lower(): int(found[kind]) for kind in LandmarkSource if found[kind]}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table; the file appears whole or not at all.

        Args:
            path: usually ``<data set>/landmarks68.npz``.
        """
        arrays: dict[str, Any] = {key: getattr(self, key) for key in _ARRAYS}
        write_atomic(path, lambda file: np.savez(file, **arrays), ours=is_table)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LandmarkTable:
        """Read a table.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a landmark table; the message names the file and says why.
        """
        try:
            # Opened here, as numpy leaves a file open that it cannot read.
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {key: file[key] for key in _ARRAYS}
            return cls(**arrays)
        except FileNotFoundError:
            raise
        except KeyError as error:
            why = f"it lacks {error.args[0]}"
        except (ValueError, TypeError, AttributeError) as error:
            # numpy takes what is no archive for a pickle, which it proposes to allow
            why = "it is damaged, or another file" if "pickle" in str(error) else str(error)
        except PermissionError:
            raise
        except Exception as error:  # the readers of zip and npy raise many kinds on damaged files
            why = f"it is damaged, or another file ({error})"
        raise ValueError(
            f"{path} is not a landmark table: {why}; remove it and run `fastcam landmarks`"
        )

    @classmethod
    def concatenate(cls, tables: Sequence[LandmarkTable]) -> LandmarkTable:
        """One table of all the rows, in order."""
        if not tables:
            return cls.empty()
        return cls(
            np.concatenate([table.name for table in tables]),
            np.concatenate([table.landmarks for table in tables]),
            np.concatenate([table.source for table in tables]),
            np.concatenate([table.size for table in tables]),
        )

    @classmethod
    def empty(cls) -> LandmarkTable:
        """A table of no images."""
        return cls(
            np.zeros(0, np.str_),
            np.zeros((0, 68, 2), np.float32),
            np.zeros(0, np.uint8),
            np.zeros((0, 2), np.int32),
        )


def _array(field: str, value: object) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors elsewhere
        raise ValueError(f"{field}: expected an array: {error}") from None


def is_table(path: Path) -> bool:
    """Whether a file holds the arrays of a landmark table; nothing is loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{key}.npy" for key in _ARRAYS} <= set(archive.namelist())
    except (zipfile.BadZipFile, ValueError):
        return False
