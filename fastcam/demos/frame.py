"""What the demos share: a folder of one's own, stages that are kept, and a page at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastcam import __version__
from fastcam._util.claim import claim
from fastcam._util.extras import require
from fastcam._util.files import Ours, check_target, commented, remove_ours, write_marked
from fastcam._util.progress import Report, labelled, reporting, timed

for _module in ("torchvision", "lightning", "torchmetrics", "matplotlib"):
    require(_module, extra="train")

import torch  # noqa: E402

from fastcam.analysis.saved import check_prefix, remove_analysis  # noqa: E402
from fastcam.faces import generate  # noqa: E402
from fastcam.faces.writer import remove_faces  # noqa: E402
from fastcam.report import Section, html_page  # noqa: E402

FACES = "faces"
PAGE = "index.html"

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoFiles:
    """What a demo writes into its folder, besides the faces and the page.

    Attributes:
        folders: names of folders, and what removes fastcam's files from each.
        files: names of files, and how they are known for fastcam's.
        analyses: prefixes of files that :func:`fastcam.analysis.save` writes.
    """

    folders: Mapping[str, Callable[[Path], object]]
    files: Mapping[str, Ours]
    analyses: Sequence[str] = ()

    def check(self, out: Path) -> None:
        """Refuse to begin where a file lies that fastcam did not write."""
        for name, ours in {**self.files, PAGE: commented}.items():
            check_target(out / name, ours)
        for name in self.analyses:
            check_prefix(out / name)

    def clear(self, out: str | Path) -> None:
        """Remove a demo from its folder, and nothing that a demo does not write."""
        out = Path(out)
        with claim(out):
            for name, remove in {**self.folders, FACES: remove_faces}.items():
                remove(out / name)
            remove_ours(out, {**self.files, PAGE: commented})
            for name in self.analyses:
                remove_analysis(out / name)


@dataclass(frozen=True)
class Frame:
    """A demo under way.

    Attributes:
        out: its folder, which no other process writes into meanwhile.
        settings: that results are stored with: the demo's own and fastcam's version, JSON values.
        workers: processes that draw faces, and threads that read them.
        progress: called with (what, done, total), or None.
        stage: says what begins, with the seconds since the start.
    """

    out: Path
    settings: Mapping[str, Any]
    workers: int
    progress: Report | None
    stage: Say

    def draw_faces(self, images: int, **how: Any) -> Path:
        """The demo's data set; ``how`` is of :func:`fastcam.faces.generate`."""
        self.stage(f"drawing {images} faces")
        report = labelled(self.progress, "drawing faces") or False
        return generate(self.out / FACES, images, workers=self.workers, progress=report, **how)

    def kept(self, stored: T | None, settings: object, make: Callable[[], T]) -> T:
        """What an earlier run stored, if with the same ``settings``; else what ``make`` gives."""
        return stored if stored is not None and settings == self.settings else make()

    def write_page(
        self,
        title: str,
        lead: str,
        sections: Sequence[Section],
        *,
        settings: str,
        command: str,
        by_hand: str | None = None,
    ) -> Path:
        """Write the page, with sections on the settings and on how it is done by hand."""
        text = f"Synthetic faces only; nothing was downloaded. torch {torch.__version__}."
        ending = [Section("Settings", [text], code=settings)]
        if by_hand is not None:
            ending.append(Section("The same by hand", code=by_hand))
        footer = f"Made by fastcam {__version__}, `{command}`."
        page = html_page(title, lead, [*sections, *ending], footer=footer)
        path = write_marked(self.out / PAGE, page)
        self.stage(f"done: {path}")
        return path


@contextmanager
def opened(
    out: str | Path,
    config: Any,
    files: DemoFiles,
    workers: int,
    progress: bool | Report | None,
    say: Say,
) -> Iterator[Frame]:
    """Claim the folder and begin.

    Raises:
        FileExistsError: ``out`` holds a file that fastcam did not write and would have to replace.
        BlockingIOError: another process writes there.
        OSError: the folder cannot be written.
    """
    with claim(out), reporting(progress) as report:
        files.check(Path(out))
        settings = json.loads(json.dumps({**asdict(config), "version": __version__}))
        yield Frame(Path(out), settings, workers, report, timed(say))
