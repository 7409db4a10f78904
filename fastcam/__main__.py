"""``python -m fastcam``, and the script ``fastcam``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line, or say in one line which extra it needs."""
    try:
        from fastcam.cli import main as run
    except ImportError as error:
        print(f"fastcam: error: {error}", file=sys.stderr)
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
