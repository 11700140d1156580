"""`python -m dovetail_ort` is `dovetail-ort`."""

from __future__ import annotations

import sys

from dovetail_ort.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
