"""``python -m zeta_guard`` is ``zeta-guard``."""

import sys

from zeta_guard.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
