"""A `Face` becomes a picture and its 68 landmarks."""

from __future__ import annotations

import numpy as np

from . import accessories, beard, features, hair, scene, skin
from .face import Face
from .geometry import EYE_X, Head, View, project_landmarks
from .stage import Stage

DEFAULT_SIZE = (178, 218)

_LAYERS = (
    scene.draw_background,
    hair.draw_back_hair,
    scene.draw_body,
    scene.draw_ears,
    skin.draw_face,
    features.draw_blush,
    beard.draw_facial_hair,
    features.draw_nose,
    features.draw_mouth,
    features.draw_eyes,
    features.draw_brows,
    hair.draw_front_hair,
    accessories.draw_hat,
    scene.draw_earrings,
    accessories.draw_glasses,
)  # from back to front


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) as integers of at least 16 pixels, or ValueError."""
    try:
        width, height = (int(v) for v in size)
    except (TypeError, ValueError):
        raise ValueError(f"size: expected (width, height), got {size!r}") from None
    if min(width, height) < 16 or max(width, height) > 4096:
        raise ValueError(f"size: expected a width and a height of 16 to 4096 pixels, got {size!r}")
    return width, height


def face_landmarks(face: Face, size: tuple[int, int] = DEFAULT_SIZE) -> np.ndarray:
    """The 68 points of a face without drawing it: float32 [68,2], pixels."""
    head = Head(face.shape)
    depth = float(head.depth(np.array(EYE_X), np.array(0.0)))
    return project_landmarks(head, View(face.pose, check_size(size), depth))


def render_face(face: Face, size: tuple[int, int] = DEFAULT_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draw a face.

    The frame is CelebA's aligned one (178×218, the pupils at about (69, 111) and (108, 111)),
    stretched to `size`.

    Args:
        face: what to draw, see `sample_face`.
        size: (width, height) in pixels.

    Returns:
        image: uint8 [height, width, 3], sRGB.
        landmarks: float32 [68,2], dlib's order, (x, y) in pixels, continuous coordinates: the
            image spans [0, width] × [0, height].

    Raises:
        ValueError: a bad size.
        ImportError: Pillow is missing (extra `train`).
    """
    stage = Stage(face, check_size(size))
    for number, draw in enumerate(_LAYERS):
        # what one layer draws does not move the next one's
        stage.rng = np.random.default_rng([face.texture, number])
        draw(stage)
    return _expose(stage), stage.landmarks


def _expose(stage: Stage) -> np.ndarray:
    """Light of the room, camera, quantisation."""
    light, canvas = stage.face.light, stage.canvas
    image = canvas.image
    h, w = canvas.height, canvas.width
    gx = np.linspace(-1.0, 1.0, w, dtype=np.float32)[None, :] * np.float32(light.gradient[0])
    gy = np.linspace(-1.0, 1.0, h, dtype=np.float32)[:, None] * np.float32(light.gradient[1])
    image = image * (
        (1.0 + gx + gy)[..., None]
        * (np.array(light.tint, dtype=np.float32) * np.float32(light.brightness))
    )
    gray = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    image = gray[..., None] + (image - gray[..., None]) * np.float32(light.saturation)
    if light.blur > 0:
        picture = canvas.image_module.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8))
        picture = picture.filter(canvas.filter_module.GaussianBlur(light.blur * stage.view.unit))
        image = np.asarray(picture, dtype=np.float32) / 255.0
    grain = np.random.default_rng(stage.face.texture + 1).standard_normal(
        (h, w, 1), dtype=np.float32
    )
    image = image + grain * np.float32(light.noise)
    return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
