from __future__ import annotations

import ctypes
from mmap import PAGESIZE, mmap
from pathlib import Path

import pytest
import torch

from loracle.training.memory.control_groups import free_in_groups
from loracle.training.memory.measurement import ProcessMeter, meter_of, release

linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux")
GIB = 2**30


@linux
def test_a_peak_that_is_over_is_still_seen() -> None:
    found = meter_of(torch.device("cpu"))
    assert found is not None
    found.restart()
    before = found.used()
    with mmap(-1, 100_000_000) as memory:  # for a moment; no allocator keeps it, or has kept it
        for start in range(0, len(memory), PAGESIZE):
            memory[start] = 1
    peak = found.peak()
    if peak is not None:  # some sandboxes do not tell
        assert 90e6 < peak - before < 200e6
        found.restart()
        again = found.peak()
        assert again is not None
        assert again < peak - 50e6


@linux
def test_the_limit_is_what_is_used_and_what_is_free() -> None:
    found = ProcessMeter()
    first, *_ = Path("/proc/meminfo").read_text().splitlines()  # MemTotal
    total = int(first.split()[1]) * 1024
    assert found.used() < found.limit() <= total
    assert found.peak() is None  # never started


@linux
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="asks glibc")
def test_what_a_training_frees_does_not_count_as_leaked() -> None:
    meter = ProcessMeter()
    release(torch.device("cpu"))  # what earlier tests freed would hold part of the tensors
    before = meter.used()
    tensors = [torch.ones(4096) for _ in range(20_000)]  # 330 MB in blocks too small to be mapped alone
    kept = tensors[::100]  # so that the heap cannot simply shrink
    assert meter.used() - before > 250e6
    del tensors
    release(torch.device("cpu"))
    assert meter.used() - before < 60e6
    assert len(kept) == 200


def test_a_device_that_cannot_be_asked_has_no_meter() -> None:
    assert meter_of(torch.device("meta")) is None


def free(folder: Path, groups: str, files: dict[str, str]) -> list[int]:
    """What is free in the groups of a system made of these files."""
    for name, text in {"listing": groups, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(free_in_groups(folder / "listing", folder / "cgroup"))


def test_a_container_is_limited_by_its_group(tmp_path: Path) -> None:
    files = {
        "cgroup/memory.max": "max\n",
        "cgroup/memory.current": f"{50 * GIB}\n",
        "cgroup/memory.stat": "",
        "cgroup/pod/memory.max": f"{8 * GIB}\n",
        "cgroup/pod/memory.current": f"{3 * GIB}\n",
        "cgroup/pod/memory.stat": f"anon {2 * GIB}\ninactive_file {GIB}\n",
    }
    assert free(tmp_path, "0::/pod/box\n", files) == [6 * GIB]  # 8, less 3 of which 1 are files


def test_groups_of_the_first_version_are_read_too(tmp_path: Path) -> None:
    files = {
        "cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
        "cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
        "cgroup/memory/memory.stat": "cache 0\n",
    }
    assert free(tmp_path, "5:devices:/x\n4:memory:/inside/a/container\n0::/\n", files) == [3 * GIB]
