"""Dark glasses drawn on faces by their landmarks: the sunglasses set of Yang et al., Fig. 5."""

from __future__ import annotations

import torch
from torch import Tensor

# Grey value of the glasses, 0 to 255.
_DARK = 18.0


def sunglasses(images: Tensor, landmarks: Tensor) -> Tensor:
    """Faces with dark glasses.

    Each glass is an ellipse around an eye, with half axes of 0.42 and 0.30 of the distance between
    the eyes, turned with the face, and a bar joins them.

    Args:
        images: uint8 or floating [N, 3, H, W] with values from 0 to 255.
        landmarks: [N, 68, 2], dlib's points in pixels.

    Returns:
        [N, 3, H, W], of the images' dtype. A face whose landmarks are not finite stays as it is.
    """
    height, width = images.shape[2:]
    points = landmarks.to(torch.float32)
    eyes = torch.stack([points[:, 36:42].mean(1), points[:, 42:48].mean(1)], 1)  # [N,2,2]
    across = eyes[:, 1] - eyes[:, 0]
    distance = across.norm(dim=-1).clamp(min=1e-6)[:, None, None, None]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], -1)  # [H,W,2]
    along = across / distance[:, :, 0, 0]
    normal = torch.stack([-along[:, 1], along[:, 0]], -1)

    def turned(origin: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels from a point, along the line of the eyes and across it: [N,k,H,W] each."""
        shift = pixels - origin[:, :, None, None]
        return tuple(
            (shift * axis[:, None, None, None]).sum(-1) / distance for axis in (along, normal)
        )  # type: ignore[return-value]

    u, v = turned(eyes)
    glass = ((u / 0.42) ** 2 + (v / 0.30) ** 2 <= 1).any(1)
    u, v = turned(eyes.mean(1, keepdim=True))
    bar = ((u.abs() <= 0.5) & ((v + 0.08).abs() <= 0.05)).any(1)
    covered = (glass | bar).unsqueeze(1)
    return torch.where(covered, images.new_full((), _DARK), images)
