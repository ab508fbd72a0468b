from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from loracle.language.feature_cache import cache_entries, clear_cache, read_matrix, write_matrix


def write_often(path: Path) -> None:
    matrix = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    for _ in range(10):
        write_matrix(path, matrix)


def test_writers_may_share_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "entry.safetensors"
    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write_often, path) for _ in range(3)]
        while not all(writer.done() for writer in writers):
            matrix = read_matrix(path, (1000, 4))  # whole, or not there yet
            assert matrix is None or matrix[-1, -1] == 3999
        for writer in writers:
            writer.result()
    assert [entry.name for entry in tmp_path.iterdir()] == ["entry.safetensors"]


def test_the_cache_stays_within_its_size(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).random((100, 10), dtype=np.float32)  # 4,000 bytes and a header
    for number in range(4):
        write_matrix(tmp_path / f"{number}.safetensors", matrix, limit_bytes=10_000)
        os.utime(tmp_path / f"{number}.safetensors", (number, number))
    assert [entry.path.stem for entry in cache_entries(tmp_path)] == ["3", "2"]
    assert read_matrix(tmp_path / "2.safetensors", (100, 10)) is not None  # used again, so now the last to go
    write_matrix(tmp_path / "4.safetensors", matrix, limit_bytes=10_000)
    assert sorted(entry.path.stem for entry in cache_entries(tmp_path)) == ["2", "4"]

    orphan, busy = tmp_path / "a.tmp", tmp_path / "b.tmp"
    orphan.write_bytes(b"x" * 50)
    busy.write_bytes(b"x" * 50)
    os.utime(orphan, (0, 0))
    held = sum(entry.size for entry in cache_entries(tmp_path))
    assert clear_cache(tmp_path) == held
    assert [path.name for path in tmp_path.iterdir()] == ["b.tmp"]  # somebody may be writing it
    assert clear_cache(tmp_path / "none") == 0


def test_what_torch_wrote_is_read(tmp_path: Path) -> None:
    """Entries of releases that wrote tensors."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensor = torch.rand(5, 3)
    digest = hashlib.sha256(tensor.numpy().data).hexdigest()
    save_file({"features": tensor}, tmp_path / "a.safetensors", metadata={"sha256": digest})
    found = read_matrix(tmp_path / "a.safetensors", (5, 3))
    assert found is not None
    assert np.array_equal(found, tensor.numpy())


def test_the_cache_is_listed_without_torch() -> None:
    code = "import loracle.language.feature_cache, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
