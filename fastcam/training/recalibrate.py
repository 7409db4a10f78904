"""Re-fits the bias of guided scores, so that guidance does not change how often they say yes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fastcam._util.modules import evaluating
from fastcam.data.batches import Batch
from fastcam.evaluation.cam_maps import check_scores
from fastcam.evaluation.splits import inputs_of
from fastcam.models import Checkpoint

# With fewer images of a class than this, a bias is left as it is.
FEWEST = 10
_ROUNDS = 20


def fit_bias(logits: Tensor, labels: Tensor) -> Tensor:
    """What to add to each score so that the binary cross entropy is least.

    There the mean of the probabilities is the share of the images that have the attribute, which
    is found by bisection, as that mean rises with the bias.

    Args:
        logits, labels: [N, T]; a label above 0.5 means present.

    Returns:
        float64 [T]; 0 where only one class occurs, for which no finite bias is best.
    """
    scores = logits.double()
    present = (labels > 0.5).double().mean(0)
    both = (present > 0) & (present < 1)
    if not both.any():
        return torch.zeros_like(present)
    share = present.clamp(1e-12, 1 - 1e-12).logit()
    low, high = share - scores.amax(0), share - scores.amin(0)
    for _ in range(100):  # halves the interval each time, down to rounding
        middle = (low + high) / 2
        below = (scores + middle).sigmoid().mean(0) < present
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(both, (low + high) / 2, 0)


@torch.no_grad()
def recalibrate(
    checkpoint: Checkpoint,
    targets: Sequence[int],
    batches: Iterable[Batch],
    device: str | torch.device | None = None,
) -> dict[str, float]:
    """Fit the biases of some scores to images, in place.

    Args:
        checkpoint: whose model is changed; its :class:`fastcam.models.ModelSpec` names the bias.
        targets: positions of the attributes; one beyond the last (``own_class``) is left out.
        batches: of validation images.
        device: where to compute; None: where the network is.

    Returns:
        What was added to each attribute's bias. Left out are attributes that fewer than
        ``FEWEST`` images have or lack, and all if the model has no bias.

    Raises:
        ScoresNotFinite: a score is NaN or infinite.
    """
    count = len(checkpoint.attributes)
    name, chosen = checkpoint.spec.logit_bias, sorted({t for t in targets if t < count})
    if name is None or not chosen:
        return {}
    logits, labels = [], []
    with evaluating(checkpoint.model, device) as device:
        for batch in batches:
            images, known = inputs_of(checkpoint, batch, device)
            logits.append(checkpoint.model(images).float().cpu())
            labels.append(known.cpu())
    if not logits:
        return {}
    scores, truth = torch.cat(logits), torch.cat(labels)
    check_scores(scores[:, chosen])
    present = (truth[:, chosen] > 0.5).sum(0).tolist()
    most = len(truth) - FEWEST
    fitted = [t for t, n in zip(chosen, present, strict=True) if FEWEST <= n <= most]
    shift = torch.zeros(len(fitted), dtype=torch.float64)
    # A class's margin moves with the others' biases: they are fit in turns.
    for _ in range(_ROUNDS if checkpoint.exclusive and len(fitted) > 1 else 1):
        step = fit_bias(checkpoint.scores(scores)[:, fitted], truth[:, fitted])
        scores[:, fitted] += step.to(scores)
        shift += step
    bias = checkpoint.model.get_parameter(name)
    bias[fitted] += shift.to(bias)
    names = [checkpoint.attributes[t] for t in fitted]
    return dict(zip(names, shift.tolist(), strict=True))
