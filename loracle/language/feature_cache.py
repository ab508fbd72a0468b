"""Features that are kept on disk between runs: files of one matrix each, the longest unused removed first.

Nothing here needs torch: matrices are arrays.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

Floats = npt.NDArray[np.float32]

CACHE_BYTES = 5 * 10**9  # of a cache folder, at most

_WRITING_SECONDS = 3600.0  # a temporary file older than that belongs to nobody


def read_matrix(path: Path, shape: tuple[int, int]) -> Floats | None:
    """A stored matrix; None where there is none, or where the file is damaged, which then is removed."""
    try:
        with safe_open(path, framework="np") as file:
            stored: Floats = file.get_tensor("features")
            digest = (file.metadata() or {}).get("sha256")
        if stored.shape == shape and stored.dtype == np.float32 and digest == _digest(stored):
            os.utime(path)  # the least recently used go first
            return stored
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError):
        pass  # damaged: computed and written again, as if it had never been there
    path.unlink(missing_ok=True)
    return None


def write_matrix(path: Path, matrix: Floats, limit_bytes: int = CACHE_BYTES) -> None:
    """Stores a matrix so that a reader sees the whole file or none, whoever else writes the same.

    The entries used longest ago go until all together take at most `limit_bytes`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(handle)
    try:
        save_file({"features": np.ascontiguousarray(matrix)}, temporary, metadata={"sha256": _digest(matrix)})
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    clear_cache(path.parent, keep_bytes=limit_bytes)


@dataclass(frozen=True)
class CacheEntry:
    """A file of the cache: `size` in bytes, `used` as seconds since the epoch."""

    path: Path
    size: int
    used: float


def cache_entries(cache_dir: Path) -> list[CacheEntry]:
    """The entries of a cache, the last used first; leftovers of writers that were killed count too."""
    found = []
    for path in [*cache_dir.glob("*.safetensors"), *cache_dir.glob("*.tmp")]:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # another process was quicker
        if path.suffix == ".tmp" and time.time() - status.st_mtime < _WRITING_SECONDS:
            continue
        found.append(CacheEntry(path, status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def clear_cache(cache_dir: Path, keep_bytes: int = 0) -> int:
    """Removes entries, the longest unused first, until `keep_bytes` remain at most; returns bytes freed."""
    held, freed = 0, 0
    for entry in cache_entries(cache_dir):
        held += entry.size
        if held > keep_bytes or entry.path.suffix == ".tmp":
            entry.path.unlink(missing_ok=True)
            freed += entry.size
    return freed


def _digest(matrix: Floats) -> str:
    return hashlib.sha256(np.ascontiguousarray(matrix).data).hexdigest()
