"""GroupDRO on losses worked out by hand, on a toy problem, and in a fine-tuning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_faces import MODEL, write_faces
from torch import nn
from torch.nn import functional as nnf

from fastcam.models import build, load_checkpoint
from fastcam.models.checkpoint import Checkpoint, Preprocessing
from fastcam.training import AttributeTask, GroupDRO, GuidanceConfig, TrainConfig, train
from fastcam.training.objective import multiclass_loss

# a, b and a third attribute of one image of each cell, and a second one of ab.
LABELS = torch.tensor([[0, 0, 1], [0, 1, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]]).float()


def test_weights_and_loss_by_hand() -> None:
    groups = GroupDRO(["a", "b", "c"], "a", "b", step=math.log(2))
    # Of a the losses are ln 2 and, for the cell a¬b, ln(1 + e^z) such that it is 2·ln 2.
    logits = torch.zeros(5, 3)
    logits[2, 0] = -math.log(3)
    loss = groups(logits, LABELS)
    moved = torch.tensor([1, 1, 2 ** math.log(2), 1]) / (3 + 2 ** math.log(2))
    torch.testing.assert_close(groups.weights, moved)
    worst = (moved * torch.tensor([1.0, 1, 2, 1])).sum() * math.log(2)
    assert float(loss) == pytest.approx(float(math.log(2) + worst) / 2)
    groups = GroupDRO(["a", "b", "c"], "a", "b", step=math.log(2), share=0.8)
    assert float(groups(logits, LABELS)) == pytest.approx(float(0.2 * math.log(2) + 0.8 * worst))


def test_equal_losses_are_the_mean_over_images() -> None:
    """Also where a batch lacks cells."""
    torch.manual_seed(0)
    logits = torch.randn(5, 3)
    logits[:, 0] = 0.7 * (2 * LABELS[:, 0] - 1)
    for rows in (slice(0, 5), slice(3, 5), slice(2, 4)):
        groups = GroupDRO(["a", "b", "c"], "a", "b", step=1.0)
        plain = nnf.binary_cross_entropy_with_logits(logits[rows], LABELS[rows], reduction="none")
        of_a, *others = plain.mean(0)
        expected = of_a / 2 + sum(others) / 4
        torch.testing.assert_close(groups(logits[rows], LABELS[rows]), expected)


def test_evaluation_moves_no_weight() -> None:
    groups = GroupDRO(["a", "b", "c"], "a", "b", step=1.0).eval()
    groups(torch.randn(5, 3), LABELS)
    with torch.no_grad():  # nor does a look without a gradient
        groups.train()(torch.randn(5, 3), LABELS)
    assert torch.equal(groups.weights, torch.full((4,), 0.25))


def _toy(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points whose first number tells a faintly, and whose second one tells b, which agrees with a
    in nineteen of twenty."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(count, generator=generator) < 0.5
    b = torch.where(torch.rand(count, generator=generator) < 0.95, a, ~a)
    noise = torch.randn(count, 2, generator=generator)
    points = torch.stack([2 * a - 1.0, 2 * b - 1.0], 1) + noise * torch.tensor([1.2, 0.3])
    return points, torch.stack([a, b], 1).float()


def test_the_worst_group_counts_more_and_does_better() -> None:
    """From a network that reads b, as a fine-tuning starts from one."""
    points, labels = _toy(2000)
    cells = 2 * labels[:, 0].long() + labels[:, 1].long()
    torch.manual_seed(1)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)

    def worst(loss_of: Any, steps: int) -> tuple[float, float]:
        """Accuracy of the worst group, and the most that the two groups weighed that part."""
        most = 0.0
        for _ in range(steps):
            loss = loss_of(model(points), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if isinstance(loss_of, GroupDRO):
                most = max(most, float(loss_of.weights[1:3].sum()))
        right = ((model(points)[:, 0] > 0) == (labels[:, 0] > 0.5)).float()
        return min(float(right[cells == g].mean()) for g in range(4)), most

    before, _ = worst(nnf.binary_cross_entropy_with_logits, 300)
    after, most = worst(GroupDRO(["a", "b"], "a", "b", 0.05), 100)
    assert before < 0.4
    assert after > before + 0.25
    assert most > 0.6


def test_in_a_fine_tuning(tmp_path: Path) -> None:
    data = write_faces(tmp_path / "faces", 48)
    small: dict[str, Any] = {"batch_size": 8, "device": "cpu", "workers": 1}
    first = TrainConfig(data=str(data), model=MODEL, size=32, epochs=1, patience=0, **small)
    start = train(first, tmp_path / "start").checkpoint
    guidance = GuidanceConfig(targets=(("Lips", "mouth"),), pull=0.0)
    found = {}
    for name, changes in {"control": {}, "dro": {"group_dro": "Eyes", "group_step": 1.0}}.items():
        config = TrainConfig.finetune(start, data, guidance, **small, **changes)
        run = train(config, tmp_path / name)
        found[name] = load_checkpoint(run.checkpoint).model.state_dict()
        assert train(config, tmp_path / name).kept
    assert found["control"].keys() == found["dro"].keys()
    assert any(not torch.equal(v, found["dro"][k]) for k, v in found["control"].items())


def test_what_does_not_fit_is_refused() -> None:
    targets = (("Lips", "mouth"),)
    with pytest.raises(ValueError, match=r"group_dro takes a from guidance\.targets, and pull 0"):
        TrainConfig("faces", group_dro="Eyes", guidance=GuidanceConfig(targets))
    with pytest.raises(ValueError, match=r"group_dro takes a from guidance\.targets, and pull 0"):
        TrainConfig("faces", group_dro="Eyes")
    checkpoint = Checkpoint(build(MODEL, 3), MODEL, ["Lips", "Eyes", "Dark"], Preprocessing(32))
    config = TrainConfig("faces", group_dro="Eyes", guidance=GuidanceConfig(targets, pull=0.0))
    assert isinstance(AttributeTask(checkpoint, config)._loss, GroupDRO)
    less = Checkpoint(build(MODEL, 1), MODEL, ["Lips"], Preprocessing(32))
    with pytest.raises(ValueError, match="unknown attribute 'Eyes'; the classifier judges: Lips"):
        AttributeTask(less, config)
    with pytest.raises(ValueError, match="group_dro: .* expected no other loss, no classes"):
        AttributeTask(checkpoint, config, loss=multiclass_loss)
    checkpoint.exclusive = True
    with pytest.raises(ValueError, match="group_dro: .* expected no other loss, no classes"):
        AttributeTask(checkpoint, config)
    with pytest.raises(ValueError, match="step: expected a number above 0, got 0.0"):
        GroupDRO(["a", "b"], "a", "b", 0.0)
    with pytest.raises(ValueError, match="share: expected a number above 0 and up to 1, got 0.0"):
        GroupDRO(["a", "b"], "a", "b", share=0.0)
    with pytest.raises(ValueError, match="another one, got 'a' twice"):
        GroupDRO(["a", "b"], "a", "a")
