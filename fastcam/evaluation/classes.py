"""Classes of which an image has one, judged like attributes: which of the scores are right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam.data.labelled import attribute_index
from fastcam.models import Checkpoint


def leads(logits: Tensor) -> Tensor:
    """Each logit minus the largest of the others: [N, K], above 0 for the class that is chosen.

    A threshold on them moves what is chosen, as one on a logit does for an attribute.
    """
    best, place = logits.topk(2, dim=1)
    own = place[:, :1] == torch.arange(logits.shape[1], device=logits.device)
    return logits - torch.where(own, best[:, 1:], best[:, :1])


def targets_of(checkpoint: Checkpoint, names: Sequence[str], labels: Tensor) -> list[int] | Tensor:
    """Positions of T attributes: [T]; with ``own_class`` among them int64 [N, T], by image."""
    places = [attribute_index(checkpoint.judged, name) for name in names]
    return own_targets(places, labels) if len(checkpoint.attributes) in places else places


def own_targets(places: Sequence[int] | Tensor, labels: Tensor) -> Tensor:
    """Positions [T], of which K stands for an image's own class, for each image: int64 [N, T]."""
    given = torch.as_tensor(places, device=labels.device).expand(len(labels), -1)
    return torch.where(given == labels.shape[1], labels.argmax(1, keepdim=True), given)


def judged_columns(checkpoint: Checkpoint, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and labels of all that :attr:`fastcam.models.Checkpoint.judged` names: two [N, K'].

    The logits as they are; of classes their :func:`leads`, and behind them that of each image's own
    class, whose label is always 1.
    """
    if not checkpoint.exclusive:
        return logits, labels
    return _with_own(leads(logits), labels), torch.cat([labels, torch.ones_like(labels[:, :1])], 1)


def odds_columns(checkpoint: Checkpoint, logits: Tensor, labels: Tensor) -> Tensor | None:
    """The log-odds [N, K'] of what :func:`judged_columns` has, where those are not its scores: of
    classes their margins, which rank images as the probabilities do."""
    if not checkpoint.exclusive:
        return None
    return _with_own(checkpoint.scores(logits), labels)


def _with_own(scores: Tensor, labels: Tensor) -> Tensor:
    return torch.cat([scores, scores.gather(1, labels.argmax(1, keepdim=True))], 1)
