"""Makes the emulator's helpers importable from every test of this folder, however pytest is called."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
