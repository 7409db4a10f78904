"""Reading files of torch.save: tensors and plain values only, and one plain line for others."""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch


def _name(allowed: Any) -> str:
    """By which torch knows what may be read."""
    named = isinstance(allowed, tuple)
    return str(allowed[1] if named else f"{allowed.__module__}.{allowed.__qualname__}")


class _Kind:
    """Stands for NumPy's dtype of a number. The dtype itself takes any state from a file, and ends
    the process with some."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(code) if isinstance(code, str) else None
        if self.dtype is None or self.dtype.kind not in "biufc":
            raise pickle.UnpicklingError(f"{code!r} is no number")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = np.dtype(self.dtype).newbyteorder(state[1])


def _number(kind: _Kind, data: bytes) -> Any:
    """A number of NumPy's as Python's."""
    return np.frombuffer(data, kind.dtype, count=1)[0].item()


# What trainers keep beside weights: options (timm, torchvision), paths in these, NumPy's figures;
# by the names that files have for them. To make one of these runs nothing.
_SCALAR: Any = np.float64(0).__reduce__()[0]
_SCALARS = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
_PLAIN: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace,
    "pathlib.PosixPath": pathlib.PosixPath,
    "pathlib._local.PosixPath": pathlib.PosixPath,
}
_NUMBERS: dict[str, Any] = {"numpy.dtype": _Kind, **dict.fromkeys(_SCALARS, _number)}
# For who allows one of NumPy's own: these do not go with what stands for them.
_NUMPY: dict[str, Any] = {"numpy.dtype": np.dtype, **dict.fromkeys(_SCALARS, _SCALAR)} | {
    _name(kind): kind for kind in (type(np.dtype(code)) for code in "?bBhHiIlLqQefd")
}
_reading = threading.Lock()

#: What other files begin with, so that one that was given by mistake can be called by its name.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"\x1f\x8b", "packed with gzip (unpack it first)"),
    (b"BZh", "packed with bzip2 (unpack it first)"),
    (b"\xfd7zXZ", "packed with xz (unpack it first)"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd (unpack it first)"),
    (b"\x89HDF", "an HDF5 file (Keras?)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs", "only the pointer of a Git LFS file (run: git lfs pull)"),
)


class NotATorchFile(ValueError):
    """A file cannot be read; the message is a reason without its subject."""


def read_torch_file(path: Path) -> Any:
    """What ``torch.save`` wrote into a file, on the CPU.

    Raises:
        NotATorchFile: it is damaged, of another kind, or holds more than tensors and plain values;
            the message completes the sentence "PATH …".
        OSError: it cannot be opened.
    """
    if path.is_dir():
        raise NotATorchFile("is a folder")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise NotATorchFile("is empty")
    reason = _other_kind(path, head)
    if reason is not None:
        raise NotATorchFile(reason)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice to its developers
            with _allowed():
                return torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, KeyboardInterrupt, FileNotFoundError):
        raise
    except pickle.UnpicklingError:
        if _changed(path):
            raise NotATorchFile("is damaged") from None
        raise NotATorchFile(
            f"holds Python objects, such as a whole network{_named(path)}, where fastcam reads only"
            " tensors and plain values"
        ) from None
    except Exception:  # torch raises nearly every kind
        raise NotATorchFile("is damaged") from None


@contextmanager
def _allowed() -> Iterator[None]:
    """What is harmless may be read, besides what the caller allowed, which stays allowed: torch
    has one set for all threads, and takes away at the end what it was given, whoever put it in."""
    with _reading:
        theirs = {_name(allowed) for allowed in torch.serialization.get_safe_globals()}
        wanted = _PLAIN | (_NUMPY if theirs & {*_NUMPY} else _NUMBERS)
        ours: list[Any] = [(made, name) for name, made in wanted.items() if name not in theirs]
        with torch.serialization.safe_globals(ours):
            yield


def _named(path: Path) -> str:
    """The first of the classes that cannot be read, in brackets."""
    try:
        with _allowed():
            found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of torch's formats before 1.6, or of any kind
        return ""
    return f" ({found[0]})" if found else ""


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as one of safetensors: the length of a header in JSON, and that."""
    with path.open("rb") as file:
        return _begins_as_safetensors(path, file.read(9))


def _begins_as_safetensors(path: Path, head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < os.path.getsize(path)


def _other_kind(path: Path, head: bytes) -> str | None:
    """What a file is that is none of torch.save's, as far as its bytes tell."""
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return f"is {kind}"
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError):
            return "is cut off or damaged"
        parts = {name.partition("/")[2] for name in names}
        if "constants.pkl" in parts:
            return "is a TorchScript program"
        if "data.pkl" not in parts:
            return "is a zip archive of something else"
        return None
    if _begins_as_safetensors(path, head):
        return "is a safetensors file"
    if path.suffix.lower() == ".onnx":
        return "is an ONNX network"
    if head[:1] == b"\x80" or b"ustar" in head:  # torch's formats before 1.6
        return None
    if _is_text(head):
        return "is a text file"
    return "is no file of PyTorch"


def _changed(path: Path) -> bool:
    """Whether a zip's checksums say that its content is no longer what was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not merely cut within a character
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c in "\r\n\t\f" for c in text)
