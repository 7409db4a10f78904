"""Images a second from JPEG, from the cache and with augmentation, beside what AlexNet takes.

Drawn faces of CelebA's size (178 × 218) as JPEG; batches as training makes them, on one processor;
a second is one of its time, so that what else runs there does not count. ``--large N`` adds a cache
of N generated images of 128 px, which is written, read in random order and removed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from bench.report import ROOT, UNFINISHED, machine, markdown, write
from bench.timing import Timing, interleaved
from bench.training_step import FineTuning
from fastcam.data import Augment, CelebA, Collate, FitSquare, PreparedFaces
from fastcam.data.batches import Batch, EpochBatches, loader
from fastcam.data.cache import Decoded, FileCache, cache_folder
from fastcam.faces import generate

SIZES = (128, 224)
JPEG, CACHE, FULL, STEP = ("JPEG", "cache", "cache, augmentation full", "AlexNet's training step")
LARGE = 128


class _FromFiles(CelebA):
    """Decoded and fitted again at each access."""

    cached = True  # in this process, as the others here


def batches(faces: CelebA, size: int, count: int) -> dict[str, Callable[[], Batch]]:
    """What makes the next batch of ``count`` images, by where they come from."""
    prepared = PreparedFaces(faces, size)
    files = _FromFiles(faces.root, "all", transform=FitSquare(size))
    augmented = Collate(augment=Augment("full"))
    plain, moved, fresh = (
        _endless(images, count, collate)
        for images, collate in ((prepared, Collate()), (prepared, augmented), (files, Collate()))
    )
    return {
        JPEG: lambda: next(fresh),
        CACHE: lambda: next(plain),
        FULL: lambda: augmented.finish(next(moved)),
    }


def _endless(images: Any, count: int, collate: Collate) -> Iterator[Batch]:
    """Batches of ``count`` images in random order, epoch after epoch."""
    epoch = 0
    while True:
        for batch in loader(images, EpochBatches(len(images), count, seed=0, epoch=epoch), collate):
            if len(batch["image"]) == count:
                yield batch
        epoch += 1


def measured(faces: CelebA, size: int, count: int, seconds: float) -> dict[str, Timing]:
    """Seconds of this process a batch, taken in turns."""
    tuning = FineTuning("alexnet", count, size)
    candidates: dict[str, Callable[[], Any]] = {**batches(faces, size, count)}
    candidates[STEP] = tuning.step(tuning.plain)
    return interleaved(candidates, seconds=seconds, clock=time.process_time)


def resident() -> dict[str, int]:
    """Bytes of memory of this process (Linux): its own, and mapped files that are in memory."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            found[name] = int(value.split()[0]) * 1024
    return found


def large(work: Path, images: int, count: int, batches: int = 40) -> dict[str, Any]:
    """A cache of generated images: how long it takes to read, and what it holds.

    Raises:
        fastcam._util.files.WriteError: the disk has too little room.
    """
    bytes_each = 3 * LARGE**2
    noise = np.random.default_rng(0).integers(0, 256, 2 * bytes_each, np.uint8)

    def decode(row: int) -> Decoded:
        # Real bytes, of each image others, at the cost of a copy.
        pixels = noise[row % bytes_each :][:bytes_each] ^ np.uint8(row % 251)
        return Decoded(pixels.reshape(3, LARGE, LARGE), LARGE, LARGE)

    folder, info = cache_folder(work, [str(i) for i in range(images)], {"generated": True})
    cache = FileCache(folder, info, decode, images, LARGE)
    before = resident()
    cache.fill_rows(np.arange(images), np.ones(images, np.uint64))
    augment = Augment("full")
    seconds, most = [], resident()
    for order in list(EpochBatches(images, count, seed=0))[:batches]:
        start = time.process_time()
        pixels = torch.from_numpy(cache.images(order))
        augment.apply(augment.draw(Batch(image=pixels, index=torch.tensor(order))))
        seconds.append(time.process_time() - start)
        most = {name: max(most[name], value) for name, value in resident().items()}
    on_disk = sum(512 * path.stat().st_blocks for path in folder.iterdir())
    return {
        "images": images,
        "bytes_on_disk": on_disk,
        "seconds": Timing.of(seconds[1:]),
        "before": before,
        "most": most,
    }


def table(found: dict[int, dict[str, Timing]], count: int) -> str:
    rows = []
    for name in (JPEG, CACHE, FULL, STEP):
        cells = (_rate(found[size][name], count) for size in found)
        rows.append([name, *cells])
    return markdown(["images/s", *(f"{size} px" for size in found)], rows)


def large_table(found: dict[str, Any], count: int) -> str:
    def memory(values: dict[str, int]) -> str:
        return f"{values['RssAnon'] / 1e6:.0f} + {values['RssFile'] / 1e6:.0f} MB"

    rows = [
        ["on the disk", f"{found['bytes_on_disk'] / 1e9:.2f} GB"],
        ["random batches, augmentation full", f"{_rate(found['seconds'], count)} images/s"],
        ["memory before: own + of files", memory(found["before"])],
        ["largest while reading", memory(found["most"])],
    ]
    return markdown([f"{found['images']:,} images of {LARGE} px", ""], rows)


def _rate(timing: Timing, count: int) -> str:
    low, middle, high = (count / t for t in (timing.p80, timing.median, timing.p20))
    return f"{middle:,.0f} ({low:,.0f} to {high:,.0f})"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench input", description=__doc__)
    parser.add_argument("--faces", type=int, default=512, help="drawn faces (default 512)")
    parser.add_argument("--batch", type=int, default=64, help="images a batch (default 64)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each size (default 20)")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="in pixels")
    parser.add_argument("--large", type=int, default=0, help="images of the large cache")
    parser.add_argument("--work", type=Path, help="folder for what is written and removed again")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    about = {
        **machine(),
        "torchvision": torchvision.__version__,
        "batch": f"{options.batch} images, uint8; AlexNet (40 attributes, SGD) in float32",
        "spread": "20th to 80th percentile of batches, taken in turns; seconds of the process",
    }
    work = Path(tempfile.mkdtemp(prefix="fastcam-input-", dir=options.work))
    found: dict[int, dict[str, Timing]] = {}
    kept: dict[str, Any] = {}

    def save(state: Mapping[str, Any]) -> str:
        results = [
            {"size": size, "case": name, **vars(timing)}
            for size, timings in found.items()
            for name, timing in timings.items()
        ]
        text = table(found, options.batch) if found else ""
        if kept:
            results.append({**kept, "seconds": vars(kept["seconds"])})
            text += "\n" + large_table(kept, options.batch)
        write(options.out, "input", {**about, **state}, results, text)
        return text

    try:
        if options.sizes:
            generate(work / "faces", options.faces, workers=1)
            faces = CelebA(work / "faces", "all")
            for size in options.sizes:
                found[size] = measured(faces, size, options.batch, options.seconds)
                save(UNFINISHED)
        if options.large:
            kept |= large(work, options.large, options.batch)
    finally:
        shutil.rmtree(work)
    text = save({})
    print("\n".join(f"- {k}: {v}" for k, v in about.items() if v is not None), text, sep="\n\n")
    return 0
