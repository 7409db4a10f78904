"""What a file of weights does not say of its network."""

from __future__ import annotations

from dataclasses import dataclass

from fastcam._util.names import parts


@dataclass(frozen=True)
class Architecture:
    """What is said of networks beside their files. The texts below are also the help of commands.

    Attributes:
        arch: name of the network (resnet50, timm:convnext_tiny) whose weights a file holds alone: a
            plain state dict of torch.save (.pt, .pth) or safetensors. Checkpoints of fastcam say
            themselves what they are.
        arch_attributes: with ``arch``: what its scores judge, in their order, names with commas
            between; each is judged by itself (a sigmoid).
        arch_size: with ``arch``: side of its images in pixels. They are normalised as ImageNet's
            are, or as timm says of the network.
        target_layer: take the Grad-CAM of this layer in place of the network's own (``fastcam
            layers`` lists them), which a few networks do not have.
        arch_classes: with ``arch``, in place of ``arch_attributes``: the classes of which an image
            has one (a softmax), in the order of their scores, names with commas between.

    Raises:
        ValueError: ``arch`` without names or the other way round, names of both kinds, one
            twice, or a size below 1.
    """

    arch: str | None = None
    arch_attributes: str | None = None
    arch_size: int = 224
    target_layer: str | None = None
    arch_classes: str | None = None

    def __post_init__(self) -> None:
        if self.arch_attributes is not None and self.arch_classes is not None:
            raise ValueError(
                "--arch-attributes and --arch-classes: expected one of them, as scores are judged "
                "each by itself or as classes of which an image has one, got both"
            )
        named = "arch-attributes" if self.arch_classes is None else "arch-classes"
        if (self.arch is None) != (self.arch_attributes is None and self.arch_classes is None):
            given, lacking = ("arch", named)[:: 1 if self.arch else -1]
            raise ValueError(
                f"--{given} without --{lacking}: a file of weights needs its network's name "
                "(--arch resnet50) and those of its scores in order (--arch-attributes A,B,C, or "
                "--arch-classes A,B,C of which an image has one)"
            )
        twice = [name for i, name in enumerate(self.names) if name in self.names[:i]]
        if twice:
            raise ValueError(
                f"--{named}: expected another name for each score, got {twice[0]} twice"
            )
        if self.arch_size < 1:
            raise ValueError(f"arch_size: expected at least 1, got {self.arch_size}")

    @property
    def names(self) -> list[str]:
        """Of the scores."""
        return list(parts(self.arch_attributes or self.arch_classes or ""))
