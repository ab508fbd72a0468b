"""Where what is computed once is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/loracle` where that is set, else where the system keeps caches (Linux: `~/.cache`)."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) / "loracle" if home else platformdirs.user_cache_path("loracle", appauthor=False)
