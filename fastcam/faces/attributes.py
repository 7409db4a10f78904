"""The attributes of a synthetic face: names, base rates, co-occurrence, sampling.

Two kinds of attributes:

* *free* attributes (`FREE_ATTRIBUTES`) are drawn first, each from its base rate or, where a
  co-occurrence names it, from the value of another free attribute. Those statistics hold exactly.
* *structured* attributes are what hair, hair colour, facial hair, hats and sunglasses bring with
  them. They depend on the free ones (a bald head has no fringe; grey hair is rarer among the
  young) and cannot be put into a co-occurrence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

Agreement = float | tuple[float, float]
Cooccurrence = Mapping[tuple[str, str], Agreement]

# CelebA's own order, then the extra column. `Attractive` is not drawn, therefore it is no column.
ATTRIBUTES: tuple[str, ...] = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips",
    "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby",
    "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male",
    "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin",
    "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young", "Sunglasses",
)  # fmt: skip

# P(attribute), or (P(attribute | Male), P(attribute | not Male)).
BASE_RATES: dict[str, float | tuple[float, float]] = {
    "Male": 0.35,
    "Young": 0.75,
    "Wearing_Lipstick": (0.12, 0.70),
    "Heavy_Makeup": (0.08, 0.60),
    "Smiling": 0.48,
    "High_Cheekbones": 0.45,
    "Chubby": 0.20,
    "Double_Chin": 0.20,
    "Arched_Eyebrows": 0.25,
    "Bags_Under_Eyes": 0.18,
    "Big_Lips": 0.22,
    "Big_Nose": 0.22,
    "Blurry": 0.04,
    "Bushy_Eyebrows": 0.15,
    "Eyeglasses": 0.10,
    "Mouth_Slightly_Open": 0.40,
    "Narrow_Eyes": 0.12,
    "Oval_Face": 0.28,
    "Pale_Skin": 0.08,
    "Pointy_Nose": 0.26,
    "Rosy_Cheeks": 0.10,
    "Wearing_Earrings": (0.04, 0.30),
    "Wearing_Necklace": (0.02, 0.20),
    "Wearing_Necktie": (0.22, 0.01),
}
FREE_ATTRIBUTES: tuple[str, ...] = tuple(BASE_RATES)

DEFAULT_COOCCURRENCE: dict[tuple[str, str], Agreement] = {
    ("Wearing_Lipstick", "Heavy_Makeup"): 0.93,
    ("Smiling", "High_Cheekbones"): 0.90,
    ("Chubby", "Double_Chin"): 0.90,
}


def resolve_cooccurrence(
    cooccurrence: Cooccurrence | None,
) -> dict[tuple[str, str], tuple[float, float]]:
    """Check a co-occurrence and lay it over the default one.

    An entry `(a, b): p` says that `b` takes the value of `a` with probability `p` and the opposite
    value otherwise: P(b | a) = P(not b | not a) = p. It replaces the base rate of `b`, which
    becomes r·p + (1 − r)·(1 − p) with r = P(a); the base rate of `a` stays. p = 0.5 makes the two
    independent. An entry `(a, b): (p, q)` sets P(b | a) = p and P(b | not a) = q apart. A default
    entry gives way to a given one on the same two attributes or with the same `b`.

    Args:
        cooccurrence: attribute pairs with their agreement; None for the default alone.

    Returns:
        {(a, b): (P(b | a), P(b | not a))}.

    Raises:
        ValueError: an unknown or structured attribute, a probability outside [0, 1], an attribute
            that follows two others, or a cycle.
    """
    given = dict(cooccurrence or {})
    for pair in given:
        if not (isinstance(pair, tuple) and len(pair) == 2 and pair[0] != pair[1]):
            raise ValueError(
                f"cooccurrence: expected pairs of two different attributes as keys, got {pair!r}"
            )
        for name in pair:
            if name not in BASE_RATES:
                kind = "is tied to hair, beard or eyewear" if name in ATTRIBUTES else "is unknown"
                raise ValueError(
                    f"cooccurrence: attribute {name!r} {kind}; "
                    f"expected one of {', '.join(sorted(BASE_RATES))}"
                )
    followers = [b for _, b in given]
    for b in followers:
        if followers.count(b) > 1:
            raise ValueError(f"cooccurrence: {b!r} can follow one attribute only, got several")
    merged: dict[tuple[str, str], Agreement] = {
        pair: value
        for pair, value in DEFAULT_COOCCURRENCE.items()
        if pair[1] not in followers and (pair[1], pair[0]) not in given
    }
    merged.update(given)

    resolved: dict[tuple[str, str], tuple[float, float]] = {}
    for pair, value in merged.items():
        both = value if isinstance(value, (tuple, list)) else (value, None)
        try:
            p = float(both[0])
            q = 1.0 - p if both[1] is None else float(both[1])
        except (TypeError, ValueError, IndexError):
            p = q = math.nan
        if len(both) != 2 or not (0.0 <= p <= 1.0 and 0.0 <= q <= 1.0):
            raise ValueError(
                f"cooccurrence: expected a number or two within [0, 1] for {pair}, got {value!r}"
            )
        resolved[pair] = (p, q)
    # base rates that depend on Male are arrows, too
    parent = {name: "Male" for name, rate in BASE_RATES.items() if isinstance(rate, tuple)}
    parent.update({b: a for a, b in resolved})
    for start in parent:
        node, steps = start, 0
        while node in parent and steps <= len(parent):
            node, steps = parent[node], steps + 1
        if node in parent:
            raise ValueError(f"cooccurrence: expected no cycle, got one through {start!r}")
    return resolved


def sample_attributes(
    rng: np.random.Generator,
    cooccurrence: Cooccurrence | None = None,
    overrides: Mapping[str, bool] | None = None,
) -> dict[str, bool]:
    """Draw the attributes of one face.

    Args:
        rng: the random stream; always the same number of draws is taken from it.
        cooccurrence: see `resolve_cooccurrence`.
        overrides: attributes to set by hand. They do not change what is drawn for attributes that
            do not depend on them, and nothing else follows an overridden `a`: every other
            attribute keeps the value it would have had.

    Returns:
        {attribute: bool} for every name in `ATTRIBUTES`, in that order.

    Raises:
        ValueError: an unknown attribute, a bad co-occurrence, or overrides that contradict each
            other.
    """
    pairs = resolve_cooccurrence(cooccurrence)
    overrides = dict(overrides or {})
    for name in overrides:
        if name not in ATTRIBUTES:
            raise ValueError(
                f"attributes: unknown attribute {name!r}; expected one of {', '.join(ATTRIBUTES)}"
            )
    parent = {b: (a, p, q) for (a, b), (p, q) in pairs.items()}
    uniform = dict(zip(FREE_ATTRIBUTES, rng.random(len(FREE_ATTRIBUTES)), strict=True))
    drawn: dict[str, bool] = {}

    def draw(name: str) -> bool:
        if name not in drawn:
            if name in parent:
                a, p, q = parent[name]
                rate = p if draw(a) else q
            else:
                base = BASE_RATES[name]
                rate = base if isinstance(base, float) else base[0 if draw("Male") else 1]
            drawn[name] = bool(uniform[name] < rate)
        return drawn[name]

    for name in FREE_ATTRIBUTES:
        draw(name)
    drawn.update({k: bool(v) for k, v in overrides.items() if k in BASE_RATES})
    _draw_hair(rng.random(8), drawn, overrides)
    _draw_beard(rng.random(3), drawn, overrides)
    drawn["Sunglasses"] = bool(rng.random() < 0.3) and drawn["Eyeglasses"]
    if "Sunglasses" in overrides:
        drawn["Sunglasses"] = bool(overrides["Sunglasses"])
        if drawn["Sunglasses"]:
            if overrides.get("Eyeglasses") is False:
                raise ValueError(
                    "attributes: Sunglasses are Eyeglasses as in CelebA, "
                    "got the one without the other"
                )
            drawn["Eyeglasses"] = True
    for name, value in overrides.items():
        if drawn[name] != bool(value):
            raise ValueError(
                f"attributes: {name}={bool(value)} contradicts the other attributes that were given"
            )
    return {name: drawn[name] for name in ATTRIBUTES}


HAIR_COLORS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")


def _draw_hair(u: np.ndarray, drawn: dict[str, bool], overrides: Mapping[str, bool]) -> None:
    """Hair cover, colour (four columns; auburn is none of them), cut and texture."""
    male, young = drawn["Male"], drawn["Young"]

    def pick(name: str, rate: float, value: float) -> bool:
        return bool(overrides[name]) if name in overrides else bool(value < rate)

    needs_hair = any(
        overrides.get(k)
        for k in (*HAIR_COLORS, "Bangs", "Straight_Hair", "Wavy_Hair", "Receding_Hairline")
    )
    hat = pick("Wearing_Hat", 0.06, u[0])
    bald_rate = 0.0 if needs_hair or hat else (0.04 if young else 0.16) if male else 0.0
    bald = pick("Bald", bald_rate, u[1])
    receding_rate = ((0.06 if young else 0.30) if male else 0.02) * (not (bald or hat))
    receding = pick("Receding_Hairline", receding_rate, u[2])
    bangs = pick("Bangs", (0.08 if male else 0.24) * (not (bald or hat or receding)), u[3])
    weights = np.array([0.32, 0.19, 0.36, 0.02, 0.11] if young else [0.18, 0.14, 0.22, 0.40, 0.06])
    chosen = [k for k in HAIR_COLORS if overrides.get(k)]
    if chosen:
        color = HAIR_COLORS.index(chosen[0])
    else:
        for i, k in enumerate(HAIR_COLORS):
            if k in overrides:
                weights[i] = 0.0
        color = int(np.searchsorted(np.cumsum(weights / weights.sum()), u[4], side="right"))
    for i, k in enumerate(HAIR_COLORS):
        drawn[k] = not bald and color == i
    wavy = pick(
        "Wavy_Hair", 0.0 if bald or overrides.get("Straight_Hair") else 0.20 if male else 0.45, u[5]
    )
    straight = pick("Straight_Hair", 0.0 if bald or wavy else 0.55, u[6])
    drawn.update(
        Wearing_Hat=hat,
        Bald=bald,
        Receding_Hairline=receding,
        Bangs=bangs,
        Wavy_Hair=wavy,
        Straight_Hair=straight,
    )
    if bald and (receding or bangs or wavy or straight):
        raise ValueError(
            "attributes: Bald contradicts Bangs, Receding_Hairline, Straight_Hair and Wavy_Hair"
        )
    if hat and (bangs or receding or bald):
        raise ValueError(
            "attributes: Wearing_Hat hides Bangs, Receding_Hairline and Bald; give only one of them"
        )
    if (bangs and receding) or (wavy and straight):
        raise ValueError(
            "attributes: got two that exclude each other "
            "(Bangs and Receding_Hairline, or Wavy_Hair and Straight_Hair)"
        )


def _draw_beard(u: np.ndarray, drawn: dict[str, bool], overrides: Mapping[str, bool]) -> None:
    """Facial hair. `No_Beard` is false when stubble, goatee or sideburns are drawn; a mustache
    alone is no beard."""
    names = ("5_o_Clock_Shadow", "Goatee", "Sideburns", "Mustache")
    bearded = drawn["Male"] and u[0] < 0.38
    # stubble | goatee | goatee and mustache | full beard (sideburns to chin, mustache) | mustache
    # | sideburns
    styles: tuple[tuple[str, ...], ...] = (
        ("5_o_Clock_Shadow",), ("Goatee",), ("Goatee", "Mustache"),
        ("Goatee", "Sideburns", "Mustache"), ("Mustache",), ("Sideburns",),
    )  # fmt: skip
    style = styles[
        int(np.searchsorted(np.cumsum([0.36, 0.10, 0.16, 0.18, 0.12]), u[1], side="right"))
    ]
    for name in names:
        drawn[name] = (
            bool(overrides[name]) if name in overrides else bool(bearded and name in style)
        )
    if overrides.get("No_Beard"):
        for name in names[:3]:
            drawn[name] = bool(overrides.get(name, False))
    if overrides.get("No_Beard") is False and not any(drawn[k] for k in names[:3]):
        drawn["5_o_Clock_Shadow" if "5_o_Clock_Shadow" not in overrides else "Goatee"] = True
    drawn["No_Beard"] = not any(drawn[k] for k in names[:3])
