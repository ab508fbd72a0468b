"""Where things lie that tests look at."""

from __future__ import annotations

from pathlib import Path

import loracle

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = Path(loracle.__file__).parent
BENCHMARKS = ROOT / "benchmarks"
