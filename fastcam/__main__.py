"""``python -m fastcam``."""

from __future__ import annotations

import sys

from fastcam.cli import main

sys.exit(main())
