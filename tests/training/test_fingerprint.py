"""A run of batches and a loss of one's own: with others of the same name it is another run."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_faces import MODEL
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils.data import DataLoader, Dataset

from fastcam.training import Batches, GroupDRO, TrainConfig, train
from fastcam.training.fingerprint import loss_settings

NAMES = ["Lips", "Eyes"]
CONFIG = TrainConfig(model=MODEL, size=32, epochs=1, patience=0, device="cpu")


class Images(Dataset[dict[str, Any]]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        shades = torch.full((3, 32, 32), index / self.count)
        return {"image": shades, "labels": torch.tensor([index % 2, index // 2 % 2]).float()}


def batches(count: int = 8, names: list[str] = NAMES, size: int = 4) -> Batches:
    loaders: Any = [DataLoader(Images(n), batch_size=size) for n in (count, 4)]
    return Batches(*loaders, attributes=names)


class Focal(nn.Module):
    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None) -> None:
        super().__init__()
        self.gamma = gamma
        self.entropy = nn.BCEWithLogitsLoss(pos_weight=weight)
        self.calls = 0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        return self.entropy(logits, labels) ** self.gamma


def test_other_batches_are_another_run(tmp_path: Path) -> None:
    train(CONFIG, tmp_path, data=batches())
    assert train(CONFIG, tmp_path, data=batches()).kept
    for others, changed in [
        (batches(12), "batches.train_batches, batches.train_images"),
        (batches(7), "batches.train_images"),
        (batches(names=["Lips", "Nose"]), "batches.attributes"),
        (batches(size=2), "batches.train_batches, batches.valid_batches"),
    ]:
        with pytest.raises(ValueError, match=rf"a run with other settings \({changed}\);"):
            train(CONFIG, tmp_path, data=others)


def test_batches_of_ones_own_begin_a_killed_epoch_anew(tmp_path: Path) -> None:
    """Nobody can say where in it their loader was."""
    config = dataclasses.replace(CONFIG, epochs=2, save_minutes=0.0)
    loss, calls = Focal(), []

    def killed(what: str, done: int, total: int, note: str) -> None:
        calls.append((what, done))
        if calls[-1] == ("epoch 2 of 2", 2):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config, tmp_path, data=batches(12), loss=loss, progress=killed)
    calls.clear()
    train(
        config, tmp_path, data=batches(12), loss=loss, progress=lambda *said: calls.append(said[:2])
    )
    assert calls == [("epoch 2 of 2", done) for done in (1, 2, 3)]


def test_other_options_of_a_loss_are_another_run(tmp_path: Path) -> None:
    loss = Focal()
    train(CONFIG, tmp_path, data=batches(), loss=loss)
    assert loss.calls
    assert train(CONFIG, tmp_path, data=batches(), loss=loss).kept
    for other, changed in [
        (Focal(1.0), r"loss_options\.gamma"),
        (Focal(weight=torch.ones(2)), r"loss_options\.entropy\.pos_weight"),
    ]:
        with pytest.raises(ValueError, match=rf"a run with other settings \({changed}\);"):
            train(CONFIG, tmp_path, data=batches(), loss=other)
    with pytest.raises(
        ValueError, match=r"a run with other settings \(loss, loss_options\.entropy"
    ):
        train(CONFIG, tmp_path, data=batches())


def test_a_run_that_noted_neither_goes_on(tmp_path: Path) -> None:
    """One of an earlier version."""
    train(CONFIG, tmp_path, data=batches(), loss=Focal())
    path = tmp_path / "settings.json"
    stored = json.loads(path.read_text())
    del stored["batches"], stored["loss_options"]
    path.write_text(json.dumps(stored))
    assert train(CONFIG, tmp_path, data=batches(12), loss=Focal(1.0)).kept


def scaled(logits: Tensor, labels: Tensor, *, floor: float = 0.1) -> Tensor:
    loss = nnf.binary_cross_entropy_with_logits(logits, labels)
    return torch.clamp(loss, min=floor)


@dataclasses.dataclass
class Hinge:
    margin: float
    scales: tuple[float, ...] = (1.0,)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nnf.relu(self.margin - logits * labels).mean() * self.scales[0]


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (scaled, None),
        (functools.partial(scaled, floor=0.2), {"func": "scaled", "floor": 0.2}),
        (Hinge(math.inf), {"margin": "inf", "scales.0": 1.0}),
        (Hinge(1.0).__call__, {"margin": 1.0, "scales.0": 1.0}),
        (nn.MultiLabelSoftMarginLoss(), {"weight": None, "reduction": "mean"}),
        (torch.dist, None),
    ],
    ids=["function", "partial", "dataclass", "method", "torch's own", "built in"],
)
def test_what_is_said_of_a_loss(loss: Any, options: dict[str, Any] | None) -> None:
    found = loss_settings(loss)
    assert found.get("loss_options") == options
    assert json.loads(json.dumps(found)) == found


def test_weights_of_a_loss_count_by_their_values() -> None:
    weights = [torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), torch.tensor([[1.0, 2.0]])]
    said = [loss_settings(nn.BCEWithLogitsLoss(pos_weight=w)) for w in weights]
    assert said[0] == loss_settings(nn.BCEWithLogitsLoss(pos_weight=weights[0].clone()))
    assert all(said[i] != said[j] for i, j in ((0, 1), (0, 2), (1, 2)))


def test_what_a_loss_counts_or_learns_is_no_option() -> None:
    worst = GroupDRO(NAMES, "Lips", "Eyes")
    before = loss_settings(worst)
    worst(torch.zeros(3, 2), torch.ones(3, 2))
    assert loss_settings(worst) == before


def test_batches_that_are_used_up_by_one_epoch_are_refused() -> None:
    with pytest.raises(TypeError, match="valid: expected an iterable .*, got list_iterator, which"):
        Batches([], iter([]), attributes=NAMES)
