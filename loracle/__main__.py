"""`python -m loracle`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    home = Path(__file__).parent.parent
    if not sys.flags.safe_path and Path(sys.path[0] or ".").resolve() != home.resolve():
        del sys.path[0]  # the current folder: a yaml.py there is not what Loracle imports
    from loracle.cli import main

    main()
