"""A fine-tuning under way: its losses, and the maps of some faces as they change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastcam._util.files import json_with, write_json
from fastcam._util.run_files import HISTORY, RESUME
from fastcam._util.torch_files import NotATorchFile, read_torch_file
from fastcam.evaluation.explain import explain_dataset
from fastcam.models import Checkpoint, load_checkpoint
from fastcam.studio.traces import LOSSES, MAPS, Moment, load_losses, load_moments
from fastcam.training import TrainConfig, train
from fastcam.training.history import read_history

#: Of a checkpoint above this size in bytes the state is saved less often: it takes a while.
_LARGE = 50 << 20


class Watcher:
    """Looks at a run through the states that it saves, and writes what it sees into the job.

    Args:
        folder: of the job.
        start: checkpoint that the run starts from.
        faces: images at its input size.
        rows: which of them.
        attribute: whose maps are drawn.
        report: is told of the run's progress in turn.
    """

    def __init__(
        self,
        folder: Path,
        start: Path,
        faces: Any,
        rows: Sequence[int],
        attribute: str,
        report: Any,
    ) -> None:
        self.folder, self.faces, self.rows = folder, faces, list(rows)
        self.attribute, self.report = attribute, report
        self.model: Checkpoint = load_checkpoint(start)  # a second one: the run has its own
        self.run, self.out = "", folder
        self._seen = 0
        self.moments = load_moments(folder)
        if not self.moments:
            self._draw(0)

    def follow(self, run: str, config: TrainConfig) -> Path:
        """Train, and watch; gives the checkpoint."""
        self.run, self.out, self._seen = run, self.folder / run, 0
        result = train(config, self.out, progress=self)
        self.model = load_checkpoint(result.checkpoint)
        records = read_history(self.out / HISTORY)
        self._draw(int(max((r["step"] for r in records), default=0)))
        self._losses(records)
        return result.checkpoint

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """A :class:`fastcam._util.progress.Report`."""
        self.report(what, done, total, note)
        path = self.out / RESUME
        try:
            stamp = path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if stamp != self._seen:
            self._seen = stamp
            self._look(path)

    def _look(self, path: Path) -> None:
        """Read the state that the run has just saved; its process is this one, so it is whole."""
        try:
            state: dict[str, Any] = read_torch_file(path)
        except (NotATorchFile, FileNotFoundError):
            return
        prefix = "model."
        weights = {
            k.removeprefix(prefix): v
            for k, v in state["state_dict"].items()
            if k.startswith(prefix)
        }
        self.model.model.load_state_dict(weights)
        self._draw(int(state["global_step"]))
        for kept in state["callbacks"].values():
            if "records" in kept:
                self._losses(kept["records"])

    def _draw(self, step: int) -> None:
        with torch.random.fork_rng():
            shown = explain_dataset({"now": self.model}, self.faces, self.rows, self.attribute)
        moment = Moment(
            self.run or "before",
            step,
            [[[round(float(v), 3) for v in row] for row in face.cams["now"]] for face in shown],
            [round(face.scores["now"], 4) for face in shown],
        )
        others = [m for m in self.moments if (m.run, m.step) != (moment.run, moment.step)]
        self.moments = [*others, moment]
        content = {
            "faces": [self.faces.names[i] for i in self.rows],
            "rows": [self.faces.rows[i] for i in self.rows],
            "moments": [vars(m) for m in self.moments],
        }
        write_json(self.folder / MAPS, content, ours=json_with("faces", "moments"))

    def _losses(self, records: Sequence[dict[str, float]]) -> None:
        path = self.folder / LOSSES
        before = load_losses(self.folder)
        ours = json_with("runs")
        kept = [dict(r) for r in records]
        write_json(path, {"runs": {**before, self.run: kept}}, ours=ours)


def machine(start: Path) -> dict[str, Any]:
    """Settings of a run that decide nothing: it saves often, so that a pause loses little."""
    minutes = 0.5 if start.stat().st_size > _LARGE else 0.03
    return {"save_minutes": minutes, "workers": 1, "cache": False}
