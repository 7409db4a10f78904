"""The studio without its pages: networks, images, maps, grids and jobs, of many people."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from fastcam._util.files import make_folder, write_json
from fastcam.data import CelebA, PreparedFaces, PreparedImages, open_folder
from fastcam.data.batches import Collate
from fastcam.evaluation.explain import explain_dataset
from fastcam.evaluation.splits import Prepared, prepare_split
from fastcam.models import AttentionNetwork, Checkpoint, grid_size, load_checkpoint
from fastcam.report import ExplainedFace
from fastcam.studio.home import CHECKPOINT, Home, NoSuchThing, checked_id, ids_in, inside, new_id
from fastcam.studio.jobs import Job, State
from fastcam.studio.judging import AFTER, BEFORE, CONTROL
from fastcam.studio.recipes import Recipe
from fastcam.studio.session import Session
from fastcam.studio.settings import StartConfig, StudioConfig
from fastcam.studio.survey import Survey, survey_name
from fastcam.studio.traces import checkpoint_of

T = TypeVar("T")
#: Networks that are held in memory at a time.
_HELD = 4
#: Images on which the attention network is judged under noise while somebody waits.
_FEW = 48
#: Images that are explained before somebody else's are.
_AT_ONCE = 4


@dataclass(frozen=True)
class Subject:
    """A network and its test images.

    Attributes:
        path: of the checkpoint.
        data: folder of the images.
        checkpoint: the network.
        faces: the first test images, at its size.
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

    def covered(self, region: str, rows: Sequence[int]) -> np.ndarray:
        """The share of each cell that a region covers: float32 [N, h, w]."""
        collate = Collate([self.faces.region(region)], self.cells)
        return collate([self.faces[i] for i in rows])["regions"][:, 0].numpy()


class Studio:
    """Everything that the pages show and do.

    Args:
        home: its folder.
        config, start: the settings.
        data, checkpoint: a person's own; both or neither.

    Raises:
        ValueError: one without the other, or a checkpoint and data that do not fit.
        FileNotFoundError: there is no such file.
    """

    def __init__(
        self,
        home: Home,
        config: StudioConfig,
        start: StartConfig,
        data: Path | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        if (data is None) != (checkpoint is None):
            raise ValueError("--data and --checkpoint: expected both, or neither for drawn faces")
        self.home, self.config, self.start = home, config, start
        self.own = checkpoint is not None
        self.data = home.faces if data is None else data.resolve()
        self.network = home.network if checkpoint is None else checkpoint.resolve()
        self._lock = threading.Lock()
        self._subjects: OrderedDict[Path, Subject] = OrderedDict()
        if checkpoint is not None:
            self.subject(self.network)  # says now what is wrong with it
        elif self.start_job.exists is False:
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
        return self.network.is_file() and (self.own or self.start_job.state().status == "done")

    # --- networks and images ----------------------------------------------------------------------

    def path_of(self, session: Session) -> Path:
        """The checkpoint that a session looks at."""
        if not session.network:
            return self.network
        path = inside(session.kept, checked_id(session.network), "model.pt")
        return path if path.is_file() else self.network

    def subject(self, path: Path) -> Subject:
        """A network with its images; those used last are held.

        Raises:
            ValueError, FileNotFoundError: the checkpoint or the data cannot be read.
        """
        with self._lock:
            found = self._subjects.get(path)
            if found is None:
                found = self._opened(path)
                self._subjects[path] = found
                while len(self._subjects) > _HELD:
                    self._subjects.popitem(last=False)
            self._subjects.move_to_end(path)
            return found

    def _opened(self, path: Path) -> Subject:
        checkpoint, folder = load_checkpoint(path), open_folder(self.data)
        faces = prepare_split(
            checkpoint, folder, "test", regions=folder.regions, limit=self.config.survey_images,
            cache=False,
        )  # fmt: skip
        side = checkpoint.preprocessing.size
        cells = grid_size(checkpoint.model, checkpoint.spec, (side, side))
        template = hasattr(faces, "faces")
        return Subject(path, self.data, checkpoint, faces, cells, tuple(folder.regions), template)

    def of(self, session: Session) -> Subject:
        """What a session looks at; it gets an attribute if it has none yet."""
        subject = self.subject(self.path_of(session))
        names = subject.checkpoint.judged
        if session.attribute not in names:
            first = self.start.attribute if self.start.attribute in names else names[0]
            other = self.start.other if first == self.start.attribute and not self.own else ""
            session.choose(attribute=first, other=other if other in names else "")
        return subject

    def alone(self, work: Callable[[], T]) -> T:
        """Run the networks in one thread at a time: hooks and modes are a module's own."""
        with self._lock:
            return work()

    def see(self, session: Session, rows: Sequence[int], region: str = "") -> list[ExplainedFace]:
        """Image, map and score of some test images."""
        subject, found = self.of(session), []
        for first in range(0, len(rows), _AT_ONCE):  # others get their turn in between
            some = rows[first : first + _AT_ONCE]
            found += self.alone(
                lambda some=some: explain_dataset(  # type: ignore[misc]
                    {"network": subject.checkpoint}, subject.faces, some, session.attribute,
                    region=region or None,
                )
            )  # fmt: skip
        return found

    def images(self, session: Session, rows: Sequence[int]) -> list[np.ndarray]:
        """Test images alone, uint8 [S, S, 3] each; any of the split's, not the first ones only."""
        faces = self._some(self.of(session).checkpoint, rows)
        pixels = [faces[i]["image"].as_subclass(Tensor) for i in range(len(rows))]
        return [p.permute(1, 2, 0).numpy() for p in pixels]

    def _some(self, checkpoint: Checkpoint, rows: Sequence[int]) -> Prepared:
        """These images of the test split, at the size of a network."""
        folder = open_folder(self.data)
        found: Any = folder.images("test", checkpoint.attributes, folder.regions)
        kind: Any = PreparedFaces if isinstance(found, CelebA) else PreparedImages
        wanted = checkpoint.preprocessing
        return kind(found, wanted.size, fit=wanted.fit, indices=rows, cache=False)

    # --- jobs -------------------------------------------------------------------------------------

    def survey_job(self, session: Session) -> Job:
        """What looks at many images for the session's attribute; begun if it was not."""
        path, images = self.path_of(session), self.config.survey_images
        name = survey_name(path, self.data, session.attribute, images)
        arguments = {
            "checkpoint": str(path), "data": str(self.data), "attribute": session.attribute,
            "images": images, "hidden": self.config.reliance_images,
        }  # fmt: skip
        job = Job.make(self.home.surveys / name, "look", arguments)
        if job.state().status == "waiting":
            job.start()
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
        if current is not None and current.state().status in ("waiting", "running", "paused"):
            raise ValueError("a fine-tuning is under way; cancel it first")
        start = self.path_of(session)
        recipe.config(start, self.data)  # says what is wrong with it
        arguments = {"start": str(start), "data": str(self.data), "recipe": recipe.to_json()}
        job = Job.make(session.jobs / new_id(), "tune", arguments)
        session.choose(tune=job.id)
        self.submit(job)
        return job

    def submit(self, job: Job) -> None:
        """Run a job now or, where as many run as may, when one of them is over."""
        if len(self._running()) < self.config.jobs:
            job.start()
        else:
            job.write(State(status="waiting", stage="waiting for the work of others"))

    def tick(self) -> None:
        """Begin jobs that have waited long enough; to be called every second or so."""
        waiting = [j for j in self._tunes() if j.state().status == "waiting"]
        for job in waiting:
            if job.state().process is None and len(self._running()) < self.config.jobs:
                job.start()

    def _tunes(self) -> list[Job]:
        sessions = self.home.root / "sessions"
        folders = [sessions / name / "jobs" for name in ids_in(sessions)]
        return [Job(folder / name) for folder in folders for name in ids_in(folder)]

    def _running(self) -> list[Job]:
        states = ((job, job.state()) for job in self._tunes())
        return [job for job, s in states if s.active and s.process is not None]

    # --- what becomes of a fine-tuning ------------------------------------------------------------

    def keep(self, session: Session, job: Job) -> str:
        """Keep the network of a fine-tuning, and look at it from now on; gives its name."""
        recipe = Recipe.from_json(job.content()["arguments"]["recipe"])
        folder = make_folder(session.kept / job.id)
        shutil.copyfile(checkpoint_of(job.folder, AFTER), folder / "model.pt")
        where = recipe.region if len(recipe.region) <= 40 else "the drawn region"
        write_json(folder / "note.json", {"words": f"{recipe.attribute} from {where}"})
        session.choose(network=job.id)
        return job.id

    def judged_faces(self, job: Job, recipe: Recipe, rows: Sequence[int]) -> list[ExplainedFace]:
        """Test images with the maps of before, control and after."""
        start = Path(job.content()["arguments"]["start"])
        paths = {
            BEFORE: start,
            CONTROL: checkpoint_of(job.folder, CONTROL),
            AFTER: checkpoint_of(job.folder, AFTER),
        }
        models = {name: self.subject(path).checkpoint for name, path in paths.items()}
        few = self._some(models[BEFORE], rows)
        return self.alone(lambda: explain_dataset(models, few, range(len(rows)), recipe.attribute))

    def discard(self, session: Session, job: Job) -> None:
        """Remove a fine-tuning and all that it made; a kept network stays."""
        job.remove()
        if session.tune == job.id:
            session.choose(tune="")

    # --- the attention network --------------------------------------------------------------------

    @property
    def has_attention(self) -> bool:
        """Whether there is one: one's own, or that trained on the drawn faces."""
        return self._own_attention or self.attention_job.state().status == "done"

    @property
    def _own_attention(self) -> bool:
        if not self.own:
            return False
        return isinstance(self.subject(self.network).checkpoint.model, AttentionNetwork)

    def attention(self) -> Subject:
        """It with its images.

        Raises:
            NoSuchThing: there is none yet.
        """
        if self._own_attention:
            return self.subject(self.network)
        if not self.has_attention:
            raise NoSuchThing("there is no attention network yet")
        return self.subject(inside(self.home.attention, "network", CHECKPOINT))

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
