"""Kimura & Tanaka's tables and figures: the analyses of ``fastcam attention`` on one network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from fastcam import analysis
from fastcam.analysis import paper
from fastcam.analysis.correlation import Correlations
from fastcam.analysis.subject import attention_network
from fastcam.evaluation import pick_device
from fastcam.evaluation.splits import Prepared
from fastcam.experiments.study import Study
from fastcam.models import Checkpoint
from fastcam.report import Table
from fastcam.training import TrainConfig
from fastcam.training.config import of_network

#: How the network is trained, where the settings do not say it.
TRAINING = of_network("attention")
#: Attributes of Figure 4: those that the paper speaks of, and one that lies elsewhere.
SHOWN = ("Smiling", "Mouth_Slightly_Open", "Eyeglasses")
#: Test images of Figure 5, at most: each is judged at six levels of noise.
NOISY = 1000


def _network(study: Study) -> tuple[Checkpoint, dict[str, Any]]:
    """The network of the first seed, and where the analyses work."""
    path = study.base(0, "attention", **TRAINING)
    where = {"device": pick_device(study.config.device), "progress": study.progress}
    return analysis.load_attention(path), where


def _faces(
    study: Study, network: Checkpoint, split: str = "test", limit: int | None = None
) -> Prepared:
    limits = [n for n in (limit, study.config.limit_test) if n is not None]
    return analysis.open_faces(
        network, study.data_of(0), split, limit=min(limits, default=None),
        workers=study.workers, progress=study.progress,
    )  # fmt: skip


def mask_table1(study: Study) -> analysis.Ablation:
    """Training with and without reconstructor and multi-label classifier, in every seed."""
    c = study.config
    training = TrainConfig(
        data=str(study.data(0)), model="attention", fit=c.fit, epochs=c.epochs, patience=0,
        batch_size=c.batch_size, schedule=c.schedule, limit_train=c.limit_train,
        precision=c.precision, device=c.device, workers=study.workers,  # type: ignore[arg-type]
        **TRAINING,
    )  # fmt: skip
    study.say("training the attention network's four variants")
    return analysis.ablation(
        training, study.out / "mask-ablation", range(c.seeds), limit=c.limit_test,
        progress=study.progress,
    )  # fmt: skip


@dataclass(frozen=True)
class OneTable:
    """One of the two tables of the correlations, beside the figure of both."""

    found: Correlations
    table: int

    def tables(self) -> list[Table]:
        return [self.found.tables()[self.table]]

    def figure(self) -> Figure:
        return self.found.figure()

    def to_json(self) -> dict[str, Any]:
        return self.found.to_json()


def _correlations(study: Study, table: int) -> OneTable:
    network, where = _network(study)
    count = attention_network(network).channels
    found = analysis.correlations(
        network, _faces(study, network), channels=[c for c in paper.TABLE_2 if c < count],
        attributes=list(paper.TABLE_3), **where,
    )  # fmt: skip
    return OneTable(found, table)


def mask_table2(study: Study) -> OneTable:
    """The channels that go together."""
    return _correlations(study, 0)


def mask_table3(study: Study) -> OneTable:
    """The attributes that go together."""
    return _correlations(study, 1)


def mask_table4(study: Study) -> analysis.AttributeScores:
    """Every attribute's accuracy."""
    network, where = _network(study)
    return analysis.attributes(network, _faces(study, network), **where)


def mask_figure3(study: Study) -> analysis.ToneCurves:
    """The tone curve that transforms masks; needs no network."""
    return analysis.tone_curves()


def mask_figure4(study: Study) -> analysis.TopMasks:
    """The masks that matter most for some attributes."""
    network, where = _network(study)
    return analysis.top_masks(network, _faces(study, network), SHOWN, **where)


def mask_figure5(study: Study) -> analysis.Robustness:
    """Accuracy against noise for many transformations of the masks."""
    network, where = _network(study)
    test = _faces(study, network, limit=NOISY)
    return analysis.robustness(network, test, _faces(study, network, "valid"), **where)
