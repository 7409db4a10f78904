"""The studio without its pages: networks, images, maps, grids and jobs, of many people."""

from __future__ import annotations

import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from fastcam._util.files import make_folder, write_json
from fastcam._util.names import printable
from fastcam._util.run_files import CHECKPOINT
from fastcam.data import open_folder
from fastcam.data.batches import Collate
from fastcam.evaluation.explain import explain_dataset
from fastcam.evaluation.splits import Prepared, prepare_split, prepared
from fastcam.models import AttentionNetwork, Checkpoint, grid_size, load_checkpoint
from fastcam.report import ExplainedFace
from fastcam.studio.home import Home, NoSuchThing, checked_id, inside, new_id
from fastcam.studio.jobs import Job
from fastcam.studio.pointing import Pointing
from fastcam.studio.queues import UNFINISHED, InTurn, NewestFirst
from fastcam.studio.recipes import Recipe
from fastcam.studio.session import Session
from fastcam.studio.settings import StartConfig, StudioConfig
from fastcam.studio.survey import Survey, survey_name
from fastcam.studio.traces import AFTER, BEFORE, CONTROL, checkpoint_of

T = TypeVar("T")
#: Networks that are held in memory at a time.
_HELD = 4
#: Images on which the attention network is judged under noise while somebody waits.
_FEW = 48
#: Images that are explained before somebody else's are.
_AT_ONCE = 2
#: The name of the drawn faces.
DRAWN = "drawn faces"


@dataclass(frozen=True)
class DataSet:
    """Images that can be chosen, and the network that is shown first with them."""

    name: str
    data: Path
    network: Path


@dataclass(frozen=True)
class Subject:
    """A network and its test images.

    Attributes:
        path: of the checkpoint.
        data: folder of the images.
        checkpoint: the network.
        faces: some of the test images, at its size.
        cells: height and width of its maps.
        regions: that the data have, by name.
        template: whether they are those of a face, so that there is a template to point at.
    """

    path: Path
    data: Path
    checkpoint: Checkpoint
    faces: Prepared
    cells: tuple[int, int]
    regions: tuple[str, ...]
    template: bool

    @cached_property
    def few(self) -> Prepared:
        """The first of the images, few enough to be judged again and again."""
        return prepare_split(
            self.checkpoint, self.data, "test", limit=min(_FEW, len(self.faces)), cache=False
        )

    @property
    def unplaced(self) -> str:
        """Of faces without landmarks of their own: how many, and what that means; or empty."""
        count = self.faces.landmark_sources.get("template", 0) if self.template else 0
        if not count:
            return ""
        words = (
            f"{count} of {len(self.faces)} images have no landmarks: regions lie in them where "
            "they lie on the template face."
        )
        if count < len(self.faces):  # a table is there, and no face was found in these
            return words
        command = f"fastcam landmarks {printable(str(self.data))}"
        return f"{words} `{command}` looks for them; start the studio anew after it."

    def images(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Some of the images, uint8 [S, S, 3] each."""
        return _pixels(self.faces, rows)

    def some(self, rows: Sequence[int]) -> Prepared:
        """These images of the test split, which may be others than ``faces``."""
        return prepared(self.checkpoint, self.faces.split, indices=rows, cache=False)

    def covered(self, region: str, rows: Sequence[int]) -> np.ndarray:
        """The share of each cell that a region covers: float32 [N, h, w]."""
        collate = Collate([self.faces.region(region)], self.cells)
        return collate([self.faces[i] for i in rows])["regions"][:, 0].numpy()


class Studio:
    """Everything that the pages show and do.

    Args:
        home: its folder.
        config, start: the settings.
        own: a person's own data and checkpoints, the first to begin with; none for drawn faces.

    Raises:
        ValueError: a checkpoint and data that do not fit.
        FileNotFoundError: there is no such file.
    """

    def __init__(
        self,
        home: Home,
        config: StudioConfig,
        start: StartConfig,
        own: Sequence[tuple[Path, Path]] = (),
    ) -> None:
        self.home, self.config, self.start = home, config, start
        self._own: dict[str, DataSet] = {}
        for data, checkpoint in own:
            name = _free_name(data.resolve().name, self._own)
            self._own[name] = DataSet(name, data.resolve(), checkpoint.resolve())
        self._drawn = DataSet(DRAWN, home.faces, home.network)
        # Two locks: a page that is being laid out does not wait for networks that are run.
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._urgent = list[object]()
        self._surveys, self.tunes = NewestFirst(), InTurn(home.root / "sessions", config.jobs)
        self._subjects: OrderedDict[tuple[Path, Path], tuple[Any, Subject]] = OrderedDict()
        for found in self._own.values():
            self.subject(found.network, found.data)  # says now what is wrong with it
        if self._own:
            return
        state = self.start_job.state()
        if state.status == "waiting" and state.process is None:  # new, or killed before it began
            self.begin_start()

    # --- first use --------------------------------------------------------------------------------

    @property
    def start_job(self) -> Job:
        """Draws the faces and trains the first network."""
        return Job(self.home.start)

    def begin_start(self) -> None:
        """Begin it, or go on with it."""
        values = asdict(self.start) | {"splits": list(self.start.splits)}
        arguments = {"faces": str(self.home.faces), "config": values}
        if self.start_job.exists:
            self.start_job.start()
        else:
            Job.make(self.home.start, "start", arguments).start()

    @property
    def ready(self) -> bool:
        """Whether there is a network to look at."""
        return bool(self._own) or self._drawn_ready

    @property
    def _drawn_ready(self) -> bool:
        return self.home.network.is_file() and self.start_job.state().status == "done"

    # --- networks and images ----------------------------------------------------------------------

    @property
    def data_sets(self) -> dict[str, DataSet]:
        """What can be chosen: a person's own, and the drawn faces where there are some."""
        drawn = {DRAWN: self._drawn} if self._drawn_ready or not self._own else {}
        return {**self._own, **drawn}

    def data_set(self, session: Session) -> DataSet:
        """What a session has chosen; the first until it has."""
        known = self.data_sets
        return known.get(session.data_set) or next(iter(known.values()))

    def choose_data(self, session: Session, name: str) -> None:
        """Another data set, with its own network and attributes."""
        if name in self.data_sets:
            session.choose(
                data_set=name, network="", attribute="", other="", image=0, pointing=Pointing(),
                undo=[],
            )  # fmt: skip

    def networks(self, session: Session) -> dict[str, str]:
        """The networks that a session has kept of the data that it looks at: words by name."""
        return session.networks(self.data_set(session).data)

    def path_of(self, session: Session) -> Path:
        """The checkpoint that a session looks at."""
        first = self.data_set(session).network
        if not session.network:
            return first
        path = inside(session.kept, checked_id(session.network), CHECKPOINT)
        return path if path.is_file() else first

    def subject(self, path: Path, data: Path) -> Subject:
        """A network with images; those used last are held, as long as their file is the same.

        Raises:
            ValueError, FileNotFoundError: the checkpoint or the data cannot be read.
        """
        with self._opening:
            key, stamp = (path, data), _stamp(path)
            held = self._subjects.get(key)
            # Where the file is gone, what was opened is all there is.
            if held is None or stamp not in (held[0], None):
                held = stamp, self._opened(path, data, anew=held is not None)
                self._subjects[key] = held
                while len(self._subjects) > _HELD:
                    self._subjects.popitem(last=False)
            self._subjects.move_to_end(key)
            return held[1]

    def _opened(self, path: Path, data: Path, anew: bool) -> Subject:
        checkpoint = load_checkpoint(path)
        # What a fine-tuning has made takes the same images: to read a folder takes a second.
        for _, held in [] if anew else reversed(self._subjects.values()):
            if held.data == data and _takes(held.checkpoint) == _takes(checkpoint):
                return replace(held, path=path, checkpoint=checkpoint, cells=_cells(checkpoint))
        folder = open_folder(data)
        faces = prepare_split(
            checkpoint, folder, "test", regions=folder.regions, limit=self.config.survey_images,
            cache=False,
        )  # fmt: skip
        template = hasattr(faces, "faces")
        regions = tuple(folder.regions)
        return Subject(path, data, checkpoint, faces, _cells(checkpoint), regions, template)

    def of(self, session: Session) -> Subject:
        """What a session looks at; it gets an attribute if it has none yet."""
        chosen = self.data_set(session)
        subject = self.subject(self.path_of(session), chosen.data)
        names = subject.checkpoint.judged
        if session.attribute not in names:
            first = self.start.attribute if self.start.attribute in names else names[0]
            drawn = chosen is self._drawn and first == self.start.attribute
            other = self.start.other if drawn else ""
            session.choose(attribute=first, other=other if other in names else "")
        return subject

    def alone(self, work: Callable[[], T]) -> T:
        """Run the networks in one thread at a time: hooks and modes are a module's own.

        What many images take lets this go before (:meth:`see`).
        """
        mark = object()
        self._urgent.append(mark)
        try:
            with self._lock:
                return work()
        finally:
            self._urgent.remove(mark)

    def see(
        self, session: Session, rows: Sequence[int], wanted: Callable[[], bool] = lambda: True
    ) -> list[ExplainedFace]:
        """Image, map and score of some test images; fewer once they are not wanted any more."""
        subject, attribute, found = self.of(session), session.attribute, list[ExplainedFace]()
        for first in range(0, len(rows), _AT_ONCE):
            while self._urgent:
                time.sleep(0.01)
            if not wanted():
                break
            some = rows[first : first + _AT_ONCE]
            with self._lock:
                found += explain_dataset(
                    {"network": subject.checkpoint}, subject.faces, some, attribute
                )
        return found

    def images(self, job: Job, rows: Sequence[int]) -> list[np.ndarray]:
        """Test images of a fine-tuning, uint8 [S, S, 3] each; not only of the first ones."""
        start, data = _of(job)
        return _pixels(self.subject(start, data).some(rows), range(len(rows)))

    # --- jobs -------------------------------------------------------------------------------------

    def survey_job(self, session: Session) -> Job:
        """What looks at many images for the session's attribute; begun if it was not.

        One runs at a time, the last that was asked for; the others go on after it.
        """
        path, images = self.path_of(session), self.config.survey_images
        data = self.data_set(session).data
        name = survey_name(path, data, session.attribute, images)
        arguments = {
            "checkpoint": str(path), "data": str(data), "attribute": session.attribute,
            "images": images, "hidden": self.config.reliance_images,
        }  # fmt: skip
        job = Job.make(self.home.surveys / name, "look", arguments)
        self._surveys.ask(job)
        return job

    def survey(self, session: Session) -> Survey | None:
        """What it found; None while it looks.

        Raises:
            ValueError: the file is damaged.
        """
        job = self.survey_job(session)
        return Survey.load(job.folder) if job.state().status == "done" else None

    def begin_tune(self, session: Session, recipe: Recipe) -> Job:
        """Begin a fine-tuning of what the session looks at, or let it wait for others.

        Raises:
            ValueError: settings that cannot be, or one of this session is under way.
        """
        current = session.current
        if current is not None and current.state().status in UNFINISHED:
            raise ValueError("a fine-tuning is under way; cancel it first")
        start, data = self.path_of(session), self.data_set(session).data
        recipe.config(start, data)  # says what is wrong with it
        arguments = {"start": str(start), "data": str(data), "recipe": recipe.to_json()}
        job = Job.make(session.jobs / new_id(), "tune", arguments)
        session.choose(tune=job.id)
        self.tunes.submit(job)
        return job

    def tick(self) -> None:
        """Begin jobs whose turn it is; to be called every second or so."""
        self._surveys.tick()
        self.tunes.tick()

    # --- what becomes of a fine-tuning ------------------------------------------------------------

    def keep(self, session: Session, job: Job) -> str:
        """Keep the network of a fine-tuning, and look at it from now on; gives its name."""
        recipe = Recipe.from_json(job.content()["arguments"]["recipe"])
        folder = make_folder(session.kept / job.id)
        shutil.copyfile(checkpoint_of(job.folder, AFTER), folder / CHECKPOINT)
        data = _of(job)[1]
        write_json(folder / "note.json", {"words": recipe.words, "data": str(data)})
        if data == self.data_set(session).data:
            session.choose(network=job.id)
        return job.id

    def judged_faces(self, job: Job, recipe: Recipe, rows: Sequence[int]) -> list[ExplainedFace]:
        """Test images with the maps of before, control and after."""
        start, data = _of(job)
        paths = {BEFORE: start} | {r: checkpoint_of(job.folder, r) for r in (CONTROL, AFTER)}
        few = self.subject(start, data).some(rows)
        models = {name: self.subject(path, data).checkpoint for name, path in paths.items()}
        return self.alone(lambda: explain_dataset(models, few, range(len(rows)), recipe.attribute))

    def discard(self, session: Session, job: Job) -> None:
        """Remove a fine-tuning and all that it made; a kept network stays."""
        job.remove()
        if session.tune == job.id:
            session.choose(tune="")

    # --- the attention network --------------------------------------------------------------------

    def has_attention(self, session: Session) -> bool:
        """Whether there is one: one's own, or that trained on the drawn faces."""
        return self._own_attention(session) or self.attention_job.state().status == "done"

    def _own_attention(self, session: Session) -> bool:
        chosen = self.data_set(session)
        if chosen is self._drawn:
            return False
        network = self.subject(chosen.network, chosen.data).checkpoint.model
        return isinstance(network, AttentionNetwork)

    def attention(self, session: Session) -> Subject:
        """It with its images.

        Raises:
            NoSuchThing: there is none yet.
        """
        if self._own_attention(session):
            chosen = self.data_set(session)
            return self.subject(chosen.network, chosen.data)
        if not self.has_attention(session):
            raise NoSuchThing("there is no attention network yet")
        return self.subject(inside(self.home.attention, "network", CHECKPOINT), self.home.faces)

    @property
    def attention_job(self) -> Job:
        """Trains the attention network."""
        return Job(self.home.attention)

    def begin_attention(self) -> Job:
        """Begin that training on the studio's data, or go on with it."""
        values = asdict(self.start.attention()) | {"splits": list(self.start.splits)}
        arguments = {
            "faces": str(self.home.faces), "config": values,
            "model_options": {"channels": 32, "multilabel": False, "reconstructor": False},
        }  # fmt: skip
        job = Job.make(self.home.attention, "start", arguments)
        job.start()
        return job


def _takes(checkpoint: Checkpoint) -> tuple[object, ...]:
    """What tells which images of a folder a network takes, and how."""
    wanted = checkpoint.preprocessing
    return list(checkpoint.attributes), checkpoint.exclusive, wanted.size, wanted.fit


def _cells(checkpoint: Checkpoint) -> tuple[int, int]:
    side = checkpoint.preprocessing.size
    return grid_size(checkpoint.model, checkpoint.spec, (side, side))


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells a file from a later one of its name; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _pixels(faces: Prepared, rows: Sequence[int]) -> list[np.ndarray]:
    pixels = [faces[i]["image"].as_subclass(Tensor) for i in rows]
    return [p.permute(1, 2, 0).numpy() for p in pixels]


def _free_name(name: str, taken: Collection[str]) -> str:
    """``name``, with a number if it is another's."""
    names = [name or "data", *(f"{name} ({i})" for i in range(2, len(taken) + 3))]
    return next(n for n in names if n not in taken and n != DRAWN)


def _of(job: Job) -> tuple[Path, Path]:
    """Checkpoint and data from which a fine-tuning began."""
    arguments = job.content()["arguments"]
    return Path(arguments["start"]), Path(arguments["data"])
