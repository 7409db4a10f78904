"""Settings of a fine-tuning that the command line, the demo and the library share.

docs/results.md has what they do, and what other values do; the pull was chosen on validation data.
Plain values, so that reading them is quick.
"""

from __future__ import annotations

from typing import Any

PULL = 1.0
CLIP = 1.0
FINETUNE: dict[str, Any] = {
    "epochs": 1,
    "patience": 0,
    "batch_size": 32,
    "lr": 0.01,
    "schedule": "constant",
    "clip": CLIP,
}
