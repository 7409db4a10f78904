"""Everything a picture of a face depends on, as plain frozen records. `sampling` fills them,
`render` draws them.

Colours are sRGB triples in 0..1; opacities and strengths lie in 0..1; lengths are head units (see
`geometry`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .canvas import Color
from .geometry import Pose, Shape


@dataclass(frozen=True)
class Skin:
    color: Color
    blotches: float = 0.03  # strength of the slow colour variation
    freckles: float = 0.0
    rosy: float = 0.0  # red in the cheeks and the nose by nature
    wrinkles: float = 0.0
    bags: float = 0.0
    gloss: float = 0.3


@dataclass(frozen=True)
class Light:
    direction: Color = (0.0, -0.4, 0.9)  # toward the light; y down
    contrast: float = 0.5
    brightness: float = 1.0
    tint: Color = (1.0, 1.0, 1.0)
    gradient: tuple[float, float] = (0.0, 0.0)  # brightness to the right and downward
    saturation: float = 1.0
    noise: float = 0.01
    blur: float = 0.0


@dataclass(frozen=True)
class Lips:
    natural: Color
    edge: float = 0.8  # softness of the natural edge
    creases: float = 0.1
    sheen: float = 0.2


@dataclass(frozen=True)
class Lipstick:
    color: Color
    opacity: float
    gloss: float


@dataclass(frozen=True)
class Makeup:
    shadow: Color
    shadow_opacity: float
    liner: float
    lashes: float
    brows: float
    blush: Color
    blush_opacity: float


@dataclass(frozen=True)
class Eyes:
    iris: Color
    iris_size: float = 4.0
    gaze: tuple[float, float] = (0.0, 0.0)
    crease: float = 0.4
    lashes: float = 0.3


@dataclass(frozen=True)
class Hair:
    color: Color
    brow_color: Color
    cut: str  # "bald", "short", "bob", "long" or "up"
    volume: float = 6.0
    length: float = 80.0
    part: float = 0.0  # x where the hair parts
    hairline: float = -50.0
    recede: float = 0.0
    wave: float = 0.0
    mess: float = 0.5
    shine: float = 0.4
    bangs: float = 0.0  # y of the fringe's lower edge, 0 for none
    in_front: float = 0.0  # how far long hair falls over the cheeks' edge


@dataclass(frozen=True)
class FacialHair:
    stubble: float = 0.0
    mustache: float = 0.0
    goatee: float = 0.0
    sideburns: float = 0.0
    full: bool = False


@dataclass(frozen=True)
class Accessories:
    glasses: str = ""  # "", "clear" or "dark"
    frame: Color = (0.1, 0.1, 0.1)
    frame_width: float = 1.4
    lens_size: tuple[float, float] = (14.0, 11.0)
    roundness: float = 2.6
    hat: str = ""  # "", "beanie" or "brim"
    hat_color: Color = (0.3, 0.3, 0.35)
    earrings: str = ""  # "", "stud" or "hoop"
    metal: Color = (0.85, 0.72, 0.4)
    necklace: bool = False
    necktie: bool = False
    tie_color: Color = (0.4, 0.1, 0.1)


@dataclass(frozen=True)
class Scene:
    colors: tuple[Color, Color, Color]
    pattern: str = "gradient"  # "gradient", "bokeh" or "split"
    angle: float = 0.0
    clothes: Color = (0.3, 0.35, 0.45)
    collar: str = "round"  # "round", "v" or "shirt"


@dataclass(frozen=True)
class Face:
    """One face. `lipstick` and `makeup` are None when not worn; `texture` seeds strands, pores and
    noise."""

    attributes: Mapping[str, bool]
    pose: Pose
    shape: Shape
    skin: Skin
    light: Light
    lips: Lips
    lipstick: Lipstick | None
    makeup: Makeup | None
    eyes: Eyes
    hair: Hair
    facial_hair: FacialHair
    accessories: Accessories
    scene: Scene
    texture: int = 0
