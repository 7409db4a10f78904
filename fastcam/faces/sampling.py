"""From (seed, index) to a `Face`. Each part of a face has a random stream of its own and takes the
same number of draws whatever the attributes say, so that switching one attribute leaves everything
else as it was."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping

import numpy as np

from .attributes import Cooccurrence, sample_attributes
from .canvas import Color
from .face import (
    Accessories,
    Eyes,
    Face,
    FacialHair,
    Hair,
    Light,
    Lips,
    Lipstick,
    Makeup,
    Scene,
    Skin,
)
from .geometry import Pose, Shape

_STREAMS = (
    "attributes", "pose", "shape", "skin", "light", "lips", "lipstick", "makeup", "eyes", "hair",
    "facial_hair", "accessories", "scene", "texture",
)  # fmt: skip

# Subtlety of lipstick: share of the nude family, and the range its opacity is drawn from. With the
# natural variation of lips (`_lips`) and of light this is what makes lipstick harder to see than
# eye make-up.
NUDE_SHARE = 0.25
LIPSTICK_OPACITY = (0.40, 0.95)
MAKEUP_STRENGTH = (0.45, 0.95)

_SKIN_RAMP = np.array(
    [
        (0.965, 0.870, 0.810), (0.935, 0.800, 0.710), (0.890, 0.720, 0.600), (0.800, 0.610, 0.480),
        (0.660, 0.470, 0.350), (0.490, 0.335, 0.250), (0.350, 0.240, 0.190),
    ]
)  # fmt: skip


def _rgb(values: np.ndarray) -> Color:
    r, g, b = (float(v) for v in np.clip(values, 0.0, 1.0))
    return r, g, b


def _hsv(hue: float, saturation: float, value: float) -> Color:
    return colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))


def _normal(rng: np.random.Generator, sigma: float) -> float:
    return float(np.clip(rng.normal(), -2.2, 2.2) * sigma)


def sample_face(
    seed: int,
    index: int = 0,
    *,
    cooccurrence: Cooccurrence | None = None,
    attributes: Mapping[str, bool] | None = None,
) -> Face:
    """Draw face `index` of the set with this seed.

    Args:
        seed: seed of the whole set, ≥ 0.
        index: number of the face within the set, from 0.
        cooccurrence: agreement of attribute pairs, see `resolve_cooccurrence`.
        attributes: attributes to set by hand; parts of the face that do not depend on them stay as
            they were.

    Raises:
        ValueError: a negative seed or index, or bad attributes.
    """
    for name, value in (("seed", seed), ("index", index)):
        if value < 0:
            raise ValueError(f"{name}: expected an integer >= 0, got {value}")
    rng = {name: np.random.default_rng([seed, index, i]) for i, name in enumerate(_STREAMS)}
    on = sample_attributes(rng["attributes"], cooccurrence, attributes)
    skin, tone = _skin(rng["skin"], on)
    return Face(
        attributes=on,
        pose=_pose(rng["pose"]),
        shape=_shape(rng["shape"], on),
        skin=skin,
        light=_light(rng["light"], on),
        lips=_lips(rng["lips"], skin.color),
        lipstick=_lipstick(rng["lipstick"], skin.color) if on["Wearing_Lipstick"] else None,
        makeup=_makeup(rng["makeup"], tone) if on["Heavy_Makeup"] else None,
        eyes=_eyes(rng["eyes"], tone),
        hair=_hair(rng["hair"], on),
        facial_hair=_facial_hair(rng["facial_hair"], on),
        accessories=_accessories(rng["accessories"], on),
        scene=_scene(rng["scene"], on),
        texture=int(rng["texture"].integers(2**31)),
    )


def _pose(rng: np.random.Generator) -> Pose:
    return Pose(
        yaw=math.radians(_normal(rng, 9.0)),
        pitch=math.radians(_normal(rng, 4.5)),
        roll=math.radians(_normal(rng, 3.0)),
        scale=1.0 + _normal(rng, 0.03),
        shift=(_normal(rng, 1.5), _normal(rng, 1.5)),
    )


def _shape(rng: np.random.Generator, on: Mapping[str, bool]) -> Shape:
    male, smiling = on["Male"], on["Smiling"]
    u = rng.uniform(size=24)
    g = np.clip(rng.normal(size=16), -2.2, 2.2)
    chubby = (0.75 + 0.35 * u[0]) if on["Chubby"] else 0.18 * u[0]
    oval = 1.0 if on["Oval_Face"] else 0.0
    width = 45.2 + 1.1 * g[0] + (1.2 if male else 0.0) + 4.6 * chubby - 2.4 * oval
    arch = (5.2 + 1.6 * u[1]) if on["Arched_Eyebrows"] else 2.2 + 1.4 * u[1] - 0.6 * male
    brow = (1.75 + 0.45 * u[2]) if on["Bushy_Eyebrows"] else 0.75 + 0.4 * u[2] + 0.15 * male
    big_lips = on["Big_Lips"]
    opening = 0.0
    if on["Mouth_Slightly_Open"]:
        opening = 3.2 + 3.2 * u[3] + (1.6 if smiling else 0.0)
    return Shape(
        width=width,
        chin=77.0 + 1.8 * g[1] + (2.0 if male else 0.0) + 3.4 * oval - 1.5 * chubby,
        squareness=2.15 + 0.08 * g[2] + (0.22 if male else 0.0) - 0.18 * oval + 0.15 * chubby,
        fullness=chubby,
        double_chin=(0.7 + 0.3 * u[4]) if on["Double_Chin"] else 0.0,
        cheekbones=(0.75 + 0.35 * u[5]) if on["High_Cheekbones"] else 0.12 * u[5],
        brow_y=-13.6 + 0.9 * g[3] + 1.3 * male,
        brow_arch=arch,
        brow_tilt=-0.4 + 0.9 * g[4],
        brow_thickness=brow,
        brow_ridge=0.7 * male + 0.2 * u[6],
        eye_width=8.9 + 0.35 * g[5] - 0.3 * male,
        eye_open=((0.50 + 0.08 * u[7]) if on["Narrow_Eyes"] else 1.0 + 0.09 * g[6])
        * (0.92 if smiling else 1.0),
        eye_tilt=0.55 * g[7] + 0.1,
        nose_length=27.8 + 1.1 * g[8] + (0.8 if male else 0.0) + (1.6 if on["Big_Nose"] else 0.0),
        nose_width=((1.26 + 0.14 * u[8]) if on["Big_Nose"] else 0.96 + 0.05 * g[9]) + 0.05 * male,
        nose_tip=(0.66 + 0.08 * u[9]) if on["Pointy_Nose"] else 1.0 + 0.08 * g[10],
        nose_height=(1.22 if on["Pointy_Nose"] else 1.0) + 0.08 * g[11],
        mouth_y=42.6 + 0.9 * g[12] + (0.8 if male else 0.0),
        mouth_width=16.0 + 0.8 * g[13],
        upper_lip=((5.6 + 0.9 * u[10]) if big_lips else 3.7 + 0.8 * u[10] - 0.3 * male),
        lower_lip=((8.0 + 1.0 * u[11]) if big_lips else 5.2 + 0.9 * u[11] - 0.3 * male),
        mouth_open=opening,
        smile=(0.62 + 0.5 * u[12]) if smiling else -0.30 + 0.42 * u[12],
        asymmetry=0.4 * g[14],
    )


def _skin(rng: np.random.Generator, on: Mapping[str, bool]) -> tuple[Skin, float]:
    u = rng.uniform(size=10)
    g = np.clip(rng.normal(size=4), -2.0, 2.0)
    tone = 0.07 + 0.86 * float(u[0]) ** 1.35  # 0 palest .. 1 darkest
    if on["Pale_Skin"]:
        tone = 0.0
    at = tone * (len(_SKIN_RAMP) - 1)
    color = np.array(
        [np.interp(at, np.arange(len(_SKIN_RAMP)), _SKIN_RAMP[:, c]) for c in range(3)]
    )
    color = color * (1.0 + 0.02 * g[0]) + np.array([0.008, 0.0, -0.012]) * g[1]
    if on["Pale_Skin"]:
        color = 0.80 * color + 0.20 * np.array([0.99, 0.96, 0.955])
    young = on["Young"]
    skin = Skin(
        color=_rgb(color),
        blotches=0.015 + 0.03 * u[1],
        freckles=0.6 * u[2] if u[3] < 0.12 and tone < 0.45 else 0.0,
        rosy=(0.55 + 0.35 * u[4]) if on["Rosy_Cheeks"] else 0.10 + 0.14 * u[4],
        wrinkles=0.10 * u[5] if young else 0.65 + 0.35 * u[5],
        bags=(0.65 + 0.35 * u[6]) if on["Bags_Under_Eyes"] else 0.12 * u[6],
        gloss=0.12 + 0.38 * u[7],
    )
    return skin, tone


def _light(rng: np.random.Generator, on: Mapping[str, bool]) -> Light:
    u = rng.uniform(size=10)
    side = 1.1 * (u[0] - 0.5) * 2.0
    direction = np.array([side, -0.25 - 0.55 * u[1], 0.95])
    direction /= np.linalg.norm(direction)
    warm = 0.07 * (2 * u[2] - 1)
    green = 0.02 * (2 * u[3] - 1)
    return Light(
        direction=(float(direction[0]), float(direction[1]), float(direction[2])),
        contrast=0.30 + 0.32 * u[4],
        brightness=0.84 + 0.20 * u[5],
        tint=(1.0 + warm, 1.0 + green, 1.0 - warm),
        gradient=(0.16 * (2 * u[6] - 1), 0.10 * (2 * u[7] - 1)),
        saturation=0.82 + 0.32 * u[8],
        noise=0.003 + 0.010 * u[9],
        blur=1.5 if on["Blurry"] else 0.0,
    )


def _lips(rng: np.random.Generator, skin: Color) -> Lips:
    u, base = rng.uniform(size=6), np.array(skin)
    rosy = np.array([0.80, 0.42, 0.43]) * (0.55 + 0.45 * base.mean() / 0.75)
    brown = base * (0.84, 0.68, 0.66)
    pink = 0.5 * brown + 0.5 * rosy
    color = brown + (pink - brown) * 1.5 * u[0] ** 1.2
    color = color * (0.95 + 0.11 * u[1])
    return Lips(
        natural=_rgb(color),
        edge=0.55 + 0.6 * u[2],
        creases=0.05 + 0.10 * u[3],
        sheen=0.08 + 0.30 * u[4],
    )


def _lipstick(rng: np.random.Generator, skin: Color) -> Lipstick:
    u = rng.uniform(size=8)
    family = u[0]
    nude = np.array(skin) * (0.80, 0.56, 0.56) + np.array([0.03, 0.0, 0.01])
    if family < NUDE_SHARE:
        color = nude * (0.92 + 0.12 * u[1])
    elif family < NUDE_SHARE + 0.27:  # pinks and roses
        color = np.array(_hsv(0.94 + 0.04 * u[1], 0.48 + 0.27 * u[2], 0.74 + 0.18 * u[3]))
    elif family < NUDE_SHARE + 0.55:  # reds and corals
        color = np.array(_hsv(0.985 + 0.035 * u[1], 0.68 + 0.22 * u[2], 0.60 + 0.25 * u[3]))
    else:  # plums, berries, browns
        color = np.array(_hsv(0.90 + 0.10 * u[1], 0.45 + 0.25 * u[2], 0.36 + 0.20 * u[3]))
    low, high = LIPSTICK_OPACITY
    return Lipstick(
        color=_rgb(color), opacity=float(low + (high - low) * u[4]), gloss=float(0.1 + 0.55 * u[5])
    )


_SHADOWS: tuple[Color, ...] = (
    (0.24, 0.20, 0.22), (0.38, 0.24, 0.18), (0.42, 0.20, 0.40), (0.20, 0.30, 0.52),
    (0.16, 0.40, 0.38), (0.66, 0.46, 0.22), (0.62, 0.32, 0.40),
)  # fmt: skip


def _makeup(rng: np.random.Generator, tone: float) -> Makeup:
    u = rng.uniform(size=8)
    shadow = (
        np.array(_SHADOWS[int(u[0] * len(_SHADOWS))]) * (0.9 + 0.25 * u[1]) * (1.0 - 0.3 * tone)
    )
    low, high = MAKEUP_STRENGTH
    strength = low + (high - low) * u[2]
    blush = np.array([0.86, 0.36, 0.40]) * (1.0 - 0.35 * tone) + np.array([0.0, 0.06, -0.02]) * (
        2 * u[3] - 1
    )
    return Makeup(
        shadow=_rgb(shadow),
        shadow_opacity=float(strength * (0.75 + 0.25 * u[4])),
        liner=float(0.5 + 0.5 * u[5]),
        lashes=float(0.6 + 0.4 * u[6]),
        brows=float(0.35 + 0.4 * strength),
        blush=_rgb(blush),
        blush_opacity=float(0.14 + 0.26 * u[7]),
    )


_IRISES: tuple[Color, ...] = (
    (0.20, 0.12, 0.08), (0.32, 0.20, 0.11), (0.42, 0.31, 0.16), (0.33, 0.42, 0.28),
    (0.33, 0.47, 0.60), (0.44, 0.50, 0.54),
)  # fmt: skip


def _eyes(rng: np.random.Generator, tone: float) -> Eyes:
    u = rng.uniform(size=8)
    which = int(u[0] ** (0.8 + 2.0 * tone) * len(_IRISES))
    iris = np.array(_IRISES[which]) * (0.85 + 0.3 * u[1])
    return Eyes(
        iris=_rgb(iris),
        iris_size=4.1 + 0.35 * u[2],
        gaze=(1.5 * (2 * u[3] - 1), 0.5 * (2 * u[4] - 1)),
        crease=0.2 + 0.5 * u[5],
        lashes=0.15 + 0.35 * u[6],
    )


def _hair(rng: np.random.Generator, on: Mapping[str, bool]) -> Hair:
    u = rng.uniform(size=20)
    if on["Black_Hair"]:
        color = np.array([0.11, 0.09, 0.085]) * (0.8 + 0.5 * u[0])
    elif on["Brown_Hair"]:
        color = np.array([0.26, 0.165, 0.105]) + np.array([0.20, 0.13, 0.075]) * u[0]
    elif on["Blond_Hair"]:
        color = np.array([0.72, 0.56, 0.33]) + np.array([0.17, 0.18, 0.20]) * u[0]
    elif on["Gray_Hair"]:
        color = np.array([0.55, 0.55, 0.56]) + 0.28 * u[0]
    else:  # auburn, or a bald head's brows
        color = np.array([0.42, 0.17, 0.08]) + np.array([0.16, 0.09, 0.05]) * u[0]
    brow = color * 0.72 if not on["Blond_Hair"] else color * 0.62
    if on["Bald"]:
        brow = np.array([0.22, 0.16, 0.12]) * (0.6 + 0.8 * u[0])
    male = on["Male"]
    if on["Bald"]:
        cut = "bald"
    elif male:
        cut = "short" if u[1] < 0.88 else "bob"
    else:
        cut = "long" if u[1] < 0.58 else "bob" if u[1] < 0.78 else "up" if u[1] < 0.92 else "short"
    return Hair(
        color=_rgb(color),
        brow_color=_rgb(brow),
        cut=cut,
        volume=3.0 + 6.0 * u[2] + (2.0 if on["Wavy_Hair"] else 0.0),
        length={"long": 95.0 + 15.0 * u[3], "bob": 42.0 + 26.0 * u[3]}.get(cut, 0.0),
        part=float(np.sign(u[4] - 0.5) * (4.0 + 16.0 * u[5]) if u[6] < 0.75 else 0.0),
        hairline=-47.0 - 6.0 * u[7] - (4.0 * u[8] if male else 0.0),
        recede=(0.75 + 0.25 * u[9]) if on["Receding_Hairline"] else 0.0,
        wave=(1.8 + 1.4 * u[10]) if on["Wavy_Hair"] else 0.0,
        mess=0.10 * u[11] if on["Straight_Hair"] else 0.45 + 0.5 * u[11],
        shine=0.2 + 0.5 * u[12],
        bangs=-19.5 + 4.0 * u[13] if on["Bangs"] else 0.0,
        in_front=float(u[14]) ** 1.5,
    )


def _facial_hair(rng: np.random.Generator, on: Mapping[str, bool]) -> FacialHair:
    u = rng.uniform(size=4)
    return FacialHair(
        stubble=(0.30 + 0.25 * u[0]) if on["5_o_Clock_Shadow"] else 0.0,
        mustache=(0.75 + 0.25 * u[1]) if on["Mustache"] else 0.0,
        goatee=(0.75 + 0.25 * u[2]) if on["Goatee"] else 0.0,
        sideburns=(0.75 + 0.25 * u[3]) if on["Sideburns"] else 0.0,
        full=on["Goatee"] and on["Sideburns"],
    )


def _accessories(rng: np.random.Generator, on: Mapping[str, bool]) -> Accessories:
    u = rng.uniform(size=16)
    dark = on["Sunglasses"]
    frames: tuple[Color, ...] = (
        (0.08, 0.08, 0.09), (0.25, 0.15, 0.09), (0.55, 0.53, 0.50), (0.45, 0.10, 0.12),
        (0.12, 0.18, 0.35),
    )  # fmt: skip
    return Accessories(
        glasses="dark" if dark else "clear" if on["Eyeglasses"] else "",
        frame=frames[int(u[0] * len(frames))],
        frame_width=1.2 + 1.4 * u[1],
        lens_size=(13.2 + 2.0 * u[2] + dark, 9.5 + 2.5 * u[3] + 1.5 * dark),
        roundness=2.2 + 2.2 * u[4],
        hat=("beanie" if u[5] < 0.5 else "brim") if on["Wearing_Hat"] else "",
        hat_color=_hsv(float(u[6]), 0.15 + 0.55 * float(u[7]), 0.20 + 0.55 * float(u[8])),
        earrings=("stud" if u[9] < 0.4 else "hoop") if on["Wearing_Earrings"] else "",
        metal=(0.88, 0.74, 0.40) if u[10] < 0.55 else (0.82, 0.83, 0.86),
        necklace=on["Wearing_Necklace"],
        necktie=on["Wearing_Necktie"],
        tie_color=_hsv(float(u[11]), 0.45 + 0.4 * float(u[12]), 0.25 + 0.4 * float(u[13])),
    )


def _scene(rng: np.random.Generator, on: Mapping[str, bool]) -> Scene:
    u = rng.uniform(size=16)
    hue, spread = float(u[0]), 0.12 * float(u[1])
    saturation, value = 0.06 + 0.34 * float(u[2]) ** 1.5, 0.22 + 0.62 * float(u[3])
    colors = (
        _hsv(hue, saturation, value),
        _hsv(hue + spread, saturation * 0.8, value * (0.55 + 0.4 * float(u[4]))),
        _hsv(hue + 0.5 * float(u[5]), 0.5 * saturation + 0.15, min(1.0, value * 1.25)),
    )
    tie = on["Wearing_Necktie"]
    return Scene(
        colors=colors,
        pattern="gradient" if u[6] < 0.4 else "bokeh" if u[6] < 0.75 else "split",
        angle=float(u[7]) * 2.0 * math.pi,
        clothes=_hsv(float(u[8]), 0.1 + 0.5 * float(u[9]), 0.15 + 0.75 * float(u[10])),
        collar="shirt" if tie or u[11] < 0.2 else "v" if u[11] < 0.55 else "round",
    )
