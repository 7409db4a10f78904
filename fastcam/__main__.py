"""``python -m fastcam``, and the script ``fastcam``."""

from __future__ import annotations

import os
import sys

from fastcam._util.interrupt import NOTHING_LOST
from fastcam._util.stop import INTERRUPTED, TERMINATED, leave, terminated


def main() -> int:
    """Run the command line, or say in one line which extra it needs."""
    for stream in (sys.stdout, sys.stderr):  # file names may hold any bytes
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        from fastcam.cli.program import main as run
    except ImportError as error:
        print(f"fastcam: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(NOTHING_LOST, file=sys.stderr)
        return TERMINATED if terminated() else INTERRUPTED
    return run()


if __name__ == "__main__":
    code = main()
    if "LOCAL_RANK" in os.environ:  # torchrun's: as of the processes that train() starts
        leave(code)
    sys.exit(code)
