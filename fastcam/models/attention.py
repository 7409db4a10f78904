"""The attention network: a mask for every attribute and channel, and its transformation.

Source: Kimura and Tanaka, "Intentional Attention Mask Transformation for Robust CNN
Classification"; Yu and Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions".
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from fastcam import functional
from fastcam.losses.attention import AttentionLoss, AttentionLossTerms, AttentionOutputs
from fastcam.models.dilated import Reconstructor, dilated_features
from fastcam.models.init import initialize
from fastcam.models.transform import MaskFunction, MaskTransform, Transformed, current
from fastcam.ops import attend
from fastcam.ops import checks as check

__all__ = ["AttentionNetwork"]


class AttributeClassifiers(nn.Module):
    """K binary classifiers, each on its own attended features (f_b of Kimura & Tanaka, eq. 2).

    Args:
        num_attributes: K.
        channels: C, inputs of each.
        hidden: units of a hidden layer with ReLU; 0 for linear classifiers.
    """

    def __init__(self, num_attributes: int, channels: int, hidden: int = 0) -> None:
        super().__init__()
        self.hidden_weight = self.hidden_bias = None
        if hidden:
            self.hidden_weight = nn.Parameter(torch.empty(num_attributes, hidden, channels))
            self.hidden_bias = nn.Parameter(torch.zeros(num_attributes, hidden))
        self.weight = nn.Parameter(torch.empty(num_attributes, hidden or channels))
        self.bias = nn.Parameter(torch.zeros(num_attributes))

    def reset_parameters(self) -> None:
        """Draw new weights, whose size does not depend on that of the layers."""
        if self.hidden_weight is not None and self.hidden_bias is not None:
            nn.init.normal_(self.hidden_weight, std=(2 / self.hidden_weight.shape[-1]) ** 0.5)
            nn.init.zeros_(self.hidden_bias)
        nn.init.normal_(self.weight, std=self.weight.shape[-1] ** -0.5)
        nn.init.zeros_(self.bias)

    def forward(self, attended: Tensor, attributes: Sequence[int] | None = None) -> Tensor:
        """Logits ``[…,T]`` from pooled attended features ``[…,T,C]`` of T attributes, or all K."""
        rows = slice(None) if attributes is None else list(attributes)
        if self.hidden_weight is not None and self.hidden_bias is not None:
            attended = torch.einsum("...kc,khc->...kh", attended, self.hidden_weight[rows])
            attended = (attended + self.hidden_bias[rows]).relu()
        return torch.einsum("...kc,kc->...k", attended, self.weight[rows]) + self.bias[rows]


class AttentionNetwork(nn.Module):
    """Binary classifiers that see shared features through a mask per attribute and channel.

    ::

        network = AttentionNetwork(num_attributes=40)
        terms = AttentionLoss()(network.outputs(images), labels, images)
        terms.total.backward()

        network.eval()
        with torch.no_grad(), network.transform(n=2.0, beta=0.5):
            logits = network(noisy_images)

    The parts, with the names of Kimura & Tanaka, §2.1 (C channels, K attributes, h×w cells):

    * ``features``, f_f: see :func:`fastcam.models.dilated.dilated_features`; F ``[N,C,h,w]`` ≥ 0.
    * ``masks_conv``, the K mask sub-networks: one 1×1 convolution from F to K·C logits, row k·C+c,
      and a sigmoid: M^k has as many channels as F. With ``mask_hidden``, ``masks_hidden`` lies
      before it: a layer of 1×1 convolutions and ReLU for each attribute.
    * ``binary``, f_b: a linear layer for each attribute on the mean over cells of T(M^k) ⊗ F; with
      ``classifier_hidden``, a hidden layer with ReLU before it.
    * ``multilabel``, f_m: mean over cells, linear, ReLU, linear, on F (eq. 4).
    * ``reconstructor``, f_r: upsampling and 3×3 convolutions back to the input, on F.

    T = 1 + M in training; :meth:`transform` changes it at inference, without retraining. The masks
    are never held, so that memory does not grow with K·C·h·w, except where ``mask_hidden``, a
    function of the masks, or a wrapped or hooked ``masks_conv`` needs them.

    Kimura and Tanaka do not say the input size, the depth and the normalisation of f_f, or what the
    mask sub-networks, the classifiers and the reconstructor are: the above is this package's
    choice, light enough for a CPU, and the arguments change it. With stride 8, as in Yu and Koltun,
    64 pixels give 8×8 cells.

    Args:
        num_attributes: K.
        channels: C, of features and masks (the paper: 128).
        stride, dilations, norm: of the feature extractor.
        mask_hidden: hidden channels of each mask sub-network; 0 for none.
        classifier_hidden: hidden units of each binary classifier; 0 for linear ones.
        multilabel: have the multi-label classifier.
        reconstructor: have the reconstructor (the paper's Table 1 leaves these two out in turn).
        loss: arguments of :class:`fastcam.AttentionLoss` for :meth:`training_loss`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """

    def __init__(
        self,
        num_attributes: int = 40,
        channels: int = 128,
        *,
        stride: int = 8,
        dilations: Sequence[int] = (1, 2, 4),
        norm: str = "batch",
        mask_hidden: int = 0,
        classifier_hidden: int = 0,
        multilabel: bool = True,
        reconstructor: bool = True,
        loss: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        for name, part in {"multilabel": multilabel, "reconstructor": reconstructor}.items():
            check.flag(name, part)  # "no" from a settings file would count as yes
        if loss is not None and not isinstance(loss, Mapping):
            raise TypeError(f"loss: expected a mapping of names to weights, got {loss!r}")
        check.whole("num_attributes", num_attributes, 1)
        self.num_attributes, self.channels = num_attributes, channels
        self.features = dilated_features(channels, stride, dilations, norm)
        check.whole("mask_hidden", mask_hidden, 0)
        check.whole("classifier_hidden", classifier_hidden, 0)
        self.masks_hidden: nn.Conv2d | None = None
        if mask_hidden:
            self.masks_hidden = nn.Conv2d(channels, num_attributes * mask_hidden, 1)
        self.masks_conv = nn.Conv2d(
            num_attributes * mask_hidden or channels, num_attributes * channels, 1,
            groups=num_attributes if mask_hidden else 1,
        )  # fmt: skip
        self.binary = AttributeClassifiers(num_attributes, channels, classifier_hidden)
        self.multilabel: nn.Sequential | None = None
        if multilabel:
            self.multilabel = nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(channels, channels),
                nn.ReLU(),
                nn.Linear(channels, num_attributes),
            )
        self.reconstructor: Reconstructor | None = None
        if reconstructor:
            self.reconstructor = Reconstructor(channels, stride, norm)
        self.criterion = AttentionLoss(**(loss or {}))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: He-normal, and small where logits or images come out.

        The masks start around one half. The binary classifiers' weights are not small: what the
        masks learn from the first steps on is in proportion to them.
        """
        initialize(self.features)
        if self.masks_hidden is not None:
            initialize(self.masks_hidden)
        nn.init.normal_(self.masks_conv.weight, std=self.masks_conv.weight.shape[1] ** -0.5)
        nn.init.zeros_(self._layer(self.masks_conv)[1])
        self.binary.reset_parameters()
        if self.multilabel is not None:
            initialize(self.multilabel, self.multilabel[-1], last_std=0.01)
        if self.reconstructor is not None:
            initialize(self.reconstructor, self.reconstructor.image, last_std=0.01)

    def transform(
        self,
        function: MaskFunction | None = None,
        *,
        n: float | Sequence[float] = 1.0,
        beta: float | Sequence[float] = 0.0,
    ) -> AbstractContextManager[None]:
        """Within the block, T = 1 + g(M; n, β) (eq. 9), or T = 1 + function(M).

        It holds for this network in this thread, in eval mode; blocks nest, the innermost holds,
        and the state from before comes back on exit. n = 1 with β = 0 is the trained point. What is
        returned may be kept and entered again, and decorates functions. What is recomputed in a
        backward (``torch.utils.checkpoint``) needs that backward within the block, too.

        Args:
            function: from the masks M ``[N,K,C,h,w]`` in [0,1] to g of the same shape. It sees all
                masks, so this way does hold them.
            n, beta: of :func:`fastcam.functional.tone_curve`, >= 0. Sequences of J values (a number
                is repeated) give binary logits ``[J,N,K]`` from one pass, under ``torch.no_grad``.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what came.
        """
        if function is None:
            attend.curves(n, beta)  # wrong values are told here, not in the block
        elif not callable(function):
            raise TypeError(f"function: expected a callable, got {type(function).__name__}")
        elif (n, beta) != (1.0, 0.0):
            raise ValueError("function: expected either a function or n and beta, got both")
        return Transformed(self, MaskTransform(n, beta, function))

    def masks(self, images: Tensor, attributes: Sequence[int] | None = None) -> Tensor:
        """The masks M = σ(L), before any transformation.

        Args:
            images: normalised ``[N,3,H,W]``.
            attributes: which of the K, T >= 1 of them, in this order; None for all. Only these are
                held.

        Returns:
            ``[N,T,C,h,w]`` in [0,1].

        Raises:
            TypeError, ValueError: no such attribute, or images of another shape or dtype.
        """
        self._check_images(images)
        chosen = range(self.num_attributes) if attributes is None else attributes
        if not isinstance(chosen, Iterable):
            raise TypeError(f"attributes: expected a sequence of indices, got {chosen!r}")
        indices = [self._attribute(index) for index in chosen]
        if not indices:
            raise ValueError("attributes: expected at least one index, got none")
        rows = torch.tensor(indices, dtype=torch.long, device=images.device)
        return self._mask_logits(self.features(images), rows).sigmoid()

    def _attribute(self, index: object) -> int:
        wanted = f"attributes: expected indices from 0 to {self.num_attributes - 1}, got {index!r}"
        try:
            if isinstance(index, bool) or getattr(index, "dtype", None) == torch.bool:
                raise TypeError  # of a mask; it would count as 0 or 1
            number = operator.index(index)  # type: ignore[arg-type]
        except TypeError:
            raise TypeError(wanted) from None
        if not 0 <= number < self.num_attributes:
            raise ValueError(wanted)
        return number

    def _plain_masks(self) -> bool:
        """Whether the weights of the mask sub-networks say what their layers do.

        They do not where a layer was wrapped or replaced (adapters, quantisation, sharding), or
        where hooks make its weight or change what comes out (pruning).
        """
        return all(
            type(layer).forward is nn.Conv2d.forward
            and "forward" not in vars(layer)
            and not (layer._forward_pre_hooks or layer._forward_hooks)
            for layer in (self.masks_hidden, self.masks_conv)
            if layer is not None
        )

    def _layer(self, conv: nn.Conv2d, attributes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weight and bias of a layer of the mask sub-networks, of all K attributes or some."""
        assert conv.bias is not None
        if attributes is None:
            return conv.weight, conv.bias
        shape = (self.num_attributes, -1)
        weight, bias = (
            parameter.unflatten(0, shape)[attributes].flatten(0, 1)
            for parameter in (conv.weight, conv.bias)
        )
        return weight, bias

    def _mask_logits(self, features: Tensor, attributes: Tensor | None = None) -> Tensor:
        """L of all K attributes or some T of them, ``[N,T,C,h,w]``."""
        if not self._plain_masks():
            hidden = features if self.masks_hidden is None else self.masks_hidden(features).relu()
            logits = self.masks_conv(hidden).unflatten(1, (-1, self.channels))
            return logits if attributes is None else logits[:, attributes]
        groups = 1
        if self.masks_hidden is not None:
            features = nnf.conv2d(features, *self._layer(self.masks_hidden, attributes)).relu()
            groups = self.num_attributes if attributes is None else len(attributes)
        logits = nnf.conv2d(features, *self._layer(self.masks_conv, attributes), groups=groups)
        return logits.unflatten(1, (-1, self.channels))

    def _attended(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over cells of T(M) ⊗ F, ``[N,K,C]`` (``[J,N,K,C]``), and l1 ``[N,K]``."""
        transform = current(self)
        if self.training and not transform.identity:
            raise ValueError(
                "transform: training is with T = 1 + M, a transformation of the masks is for "
                "inference; call eval() on the network first"
            )
        if transform.function is not None:
            return self._attended_by(transform.function, features)
        curve = transform.n, transform.beta
        if self.masks_hidden is not None or not self._plain_masks():
            return functional.attend(features, self._mask_logits(features), *curve, pool=True)
        weight, bias = self._layer(self.masks_conv)
        # Autocast does not know the op, nor the device "meta".
        if not features.is_meta and torch.is_autocast_enabled(features.device.type):
            weight, bias = weight.to(features.dtype), bias.to(features.dtype)
        return functional.attend_conv1x1(features, weight.flatten(1), bias, *curve)

    def _attended_by(self, function: MaskFunction, features: Tensor) -> tuple[Tensor, Tensor]:
        masks = self._mask_logits(features).sigmoid()
        emphasis = function(masks)
        if not isinstance(emphasis, Tensor) or emphasis.shape != masks.shape:
            came = list(emphasis.shape) if isinstance(emphasis, Tensor) else type(emphasis).__name__
            raise ValueError(
                f"function: expected it to return a tensor {list(masks.shape)} like the masks, "
                f"got {came}"
            )
        cells = features.shape[-2] * features.shape[-1]
        weighted = torch.einsum("nkchw,nchw->nkc", emphasis.to(features.dtype), features) / cells
        return weighted + features.mean((-2, -1)).unsqueeze(1), masks.sum((2, 3, 4))

    def _check_images(self, images: Tensor) -> None:
        check.floating("images", images)
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images: expected shape [N,3,H,W], got {list(images.shape)}")

    def forward(self, images: Tensor, full: bool = False) -> Tensor | AttentionOutputs:
        """Binary logits ``[N,K]`` (``[J,N,K]`` within ``transform`` of J values).

        Args:
            images: normalised ``[N,3,H,W]``.
            full: run all parts and return what :meth:`outputs` returns.

        Raises:
            TypeError, ValueError: images of another shape or dtype, a transformation in training
                mode, or several of them where gradients are recorded.
        """
        self._check_images(images)
        features = self.features(images)
        attended, l1 = self._attended(features)
        logits = self.binary(attended)
        if not full:
            return logits
        height, width = images.shape[-2:]
        return AttentionOutputs(
            logits,
            None if self.multilabel is None else self.multilabel(features),
            None if self.reconstructor is None else self.reconstructor(features, (height, width)),
            l1,
        )

    def outputs(self, images: Tensor) -> AttentionOutputs:
        """What every part says about ``images`` [N,3,H,W], for the loss; see :meth:`forward`."""
        return self(images, full=True)  # through __call__, so that hooks and taps see it

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, AttentionLossTerms]:
        """Binary logits ``[N,K]`` and the loss of one forward; x of eq. 5 are the images given.

        Args:
            images: normalised ``[N,3,H,W]``.
            labels: ``[N,K]``, 0 or 1.
        """
        outputs = self.outputs(images)
        return outputs.binary, self.criterion(outputs, labels, images)
