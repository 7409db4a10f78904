"""The process that decodes what people upload: ``python -m fastcam.studio.decode FOLDER …``.

A decoder that is led astray by a file is not the studio's: it has bounds on pixels, memory and time
and ends with its work.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastcam._util.files import describe, write_atomic
from fastcam.data.decoding import decode_pixels, image_size
from fastcam.studio.home import checked_id

#: Longest side that is kept, in pixels; no network of the library's sees more.
KEPT = 1024
#: Bytes that decoding may take beyond what the process has at the start, and seconds of a processor
#: for each image.
MEMORY, SECONDS = 3 << 29, 30


def main(folder: str, megapixels: str, *names: str) -> int:
    """Decode ``<name>.raw`` to ``<name>.png`` for each name; prints what became of each."""
    warnings.simplefilter("ignore")
    detector = _detector()
    _bound(len(names))
    limit = int(float(megapixels) * 1e6)
    said: dict[str, Any] = {}
    for name in names:
        path = Path(folder) / f"{checked_id(name)}.raw"
        try:
            said[name] = _decode(path, limit, detector)
        except (ValueError, OSError, MemoryError) as error:
            said[name] = {"error": describe(error) or "there is not enough memory for its pixels"}
    print(json.dumps(said))
    return 0


def _decode(path: Path, limit: int, detector: Any) -> dict[str, Any]:
    data = path.read_bytes()
    Image.MAX_IMAGE_PIXELS = None  # the header alone is read, and told of in our words
    width, height = image_size(data, "the file")
    if width * height > limit:
        raise ValueError(
            f"it has {width * height / 1e6:.1f} million pixels; at most {limit / 1e6:g} are taken"
        )
    Image.MAX_IMAGE_PIXELS = limit
    image = Image.fromarray(decode_pixels(data, "the file"))
    image.thumbnail((KEPT, KEPT))
    if min(image.size) < 8:
        raise ValueError(f"it is {width} × {height} pixels; at least 8 on a side are needed")
    pixels = np.array(image)
    points = None if detector is None else detector(pixels)
    write_atomic(path.with_suffix(".png"), lambda file: image.save(file, "PNG"))
    return {
        "width": width,
        "height": height,
        "landmarks": None if points is None else points.round(2).tolist(),
    }


def _detector() -> Any:
    """dlib's, where it is installed."""
    from fastcam.regions.detect import FaceDetector

    try:
        return FaceDetector()
    except (ImportError, OSError, ValueError):
        return None


def _bound(count: int) -> None:
    """Bounds of the system's on this process, as far as it has them."""
    try:
        import resource

        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
        seconds = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime) + SECONDS * (count + 1)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, StopIteration, ValueError):
        pass


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
