"""A person's session: what was chosen so far, on disk, so that a reload or a restart keeps it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastcam._util.files import json_with, make_folder, read_json, write_json
from fastcam.studio.home import Home, NoSuchThing, checked_id, ids_in, inside
from fastcam.studio.jobs import Job
from fastcam.studio.pointing import Pointing

FILE = "session.json"
_is_session = json_with("attribute", "pointing", "colours")
#: Steps that can be undone.
_UNDO = 50
COLOURS = {"turbo": "the paper's colours", "viridis": "even steps (viridis)"}


@dataclass
class Session:
    """What a person has chosen.

    Attributes:
        folder: where it lies.
        data_set: its name; empty for the first.
        network: ``""`` for the network that the studio opened on, or the name of a kept one.
        attribute, other: what is judged, and what may mislead; ``other`` may be empty.
        colours: of the maps, a key of ``COLOURS``.
        pointing: where to look.
        undo: earlier pointings, the last one last.
        image: position of the image that is shown large.
        tune: name of the fine-tuning under way or judged last; empty for none.
        pull, loss, epochs: of the next fine-tuning.
    """

    folder: Path
    data_set: str = ""
    network: str = ""
    attribute: str = ""
    other: str = ""
    colours: str = "turbo"
    pointing: Pointing = field(default_factory=Pointing)
    undo: list[Pointing] = field(default_factory=list)
    image: int = 0
    tune: str = ""
    pull: str = "firm"
    loss: str = "energy"
    epochs: int = 1

    @property
    def id(self) -> str:
        """Its name."""
        return self.folder.name

    @classmethod
    def open(cls, home: Home, name: str) -> Session:
        """A session by its name, new if there is none.

        Raises:
            NoSuchThing: a name that the studio does not give.
        """
        folder = home.session(name)
        path = folder / FILE
        if not path.is_file():
            return cls(folder)
        values = read_json(path, "session of the studio", ("attribute", "pointing", "colours"))
        pointing = Pointing.from_json(values.pop("pointing"))
        undo = [Pointing.from_json(v) for v in values.pop("undo")]
        return cls(folder, **values, pointing=pointing, undo=undo)

    def save(self) -> None:
        """Write it down."""
        make_folder(self.folder)
        values: dict[str, Any] = {k: v for k, v in vars(self).items() if k != "folder"}
        values["pointing"] = self.pointing.to_json()
        values["undo"] = [p.to_json() for p in self.undo]
        write_json(self.folder / FILE, values, ours=_is_session)

    def choose(self, **changes: Any) -> None:
        """Change some of it, and write that down."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.save()

    def point(self, pointing: Pointing) -> None:
        """Point elsewhere; the earlier pointing can be had back."""
        if pointing != self.pointing:
            self.undo = [*self.undo, self.pointing][-_UNDO:]
            self.choose(pointing=pointing)

    def take_back(self) -> None:
        """Point as before the last change; nothing if there was none."""
        if self.undo:
            *rest, last = self.undo
            self.choose(pointing=last, undo=rest)

    # --- what lies in its folder ------------------------------------------------------------------

    @property
    def jobs(self) -> Path:
        """Its fine-tunings."""
        return self.folder / "jobs"

    @property
    def uploads(self) -> Path:
        """Its images."""
        return self.folder / "uploads"

    @property
    def kept(self) -> Path:
        """Networks that were kept, each in a folder of its name."""
        return self.folder / "kept"

    def job(self, name: str) -> Job:
        """A fine-tuning of this session.

        Raises:
            NoSuchThing: there is none of that name here.
        """
        job = Job(inside(self.folder, "jobs", checked_id(name)))
        if not job.exists:
            raise NoSuchThing("there is nothing of that name")
        return job

    @property
    def current(self) -> Job | None:
        """The fine-tuning under way or judged last."""
        if not self.tune:
            return None
        try:
            return self.job(self.tune)
        except NoSuchThing:
            return None

    @property
    def judged(self) -> list[Job]:
        """The fine-tunings that are done, oldest first."""
        done = []
        for name in ids_in(self.jobs):
            job = Job(self.jobs / name)
            state = job.state()
            if job.exists and state.status == "done":
                done.append((state.time, job))
        return [job for _, job in sorted(done, key=lambda pair: pair[0])]

    def networks(self, data: Path) -> dict[str, str]:
        """Networks kept of a data set: what they are, by name, oldest first."""
        found = {}
        for name in ids_in(self.kept):
            note = self.kept / name / "note.json"
            if note.is_file():
                content = read_json(note, "note on a network", ("words",))
                if content.get("data", str(data)) == str(data):
                    found[name] = str(content["words"])
        return found

    def remove(self) -> None:
        """Remove it with all that it holds; what runs is stopped."""
        for name in ids_in(self.jobs):
            Job(self.jobs / name).remove()
        shutil.rmtree(self.folder, ignore_errors=True)
