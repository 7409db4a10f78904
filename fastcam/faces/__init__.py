"""Synthetic faces with true landmarks and attributes drawn where they belong, in CelebA's layout
on disk.

>>> from fastcam import faces as synthetic
>>> synthetic.generate("faces", 4000, seed=0)
>>> face = synthetic.sample_face(0, attributes={"Wearing_Lipstick": True})
>>> image, landmarks = synthetic.render_face(face)
"""

from __future__ import annotations

from .attributes import (
    ATTRIBUTES,
    BASE_RATES,
    DEFAULT_COOCCURRENCE,
    FREE_ATTRIBUTES,
    Cooccurrence,
    resolve_cooccurrence,
    sample_attributes,
)
from .face import Face
from .render import face_landmarks, render_face
from .sampling import sample_face
from .writer import generate

__all__ = [
    "ATTRIBUTES",
    "BASE_RATES",
    "DEFAULT_COOCCURRENCE",
    "FREE_ATTRIBUTES",
    "Cooccurrence",
    "Face",
    "face_landmarks",
    "generate",
    "render_face",
    "resolve_cooccurrence",
    "sample_attributes",
    "sample_face",
]
