"""What the environment of a worker says about its heap."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loracle.config.execution.heap import has_lean_heap, lean_heap

# Tensors that stay between tensors that do not, as in a forward pass; prints the bytes that this takes.
PROGRAM = """
import torch
from loracle.config.execution.heap import has_lean_heap
from loracle.training.memory.measurement import ProcessMeter
meter = ProcessMeter()
torch.zeros(8) + 1
before, kept, objects = meter.used(), [], []
for number in range(2000):
    passing = torch.ones(25_000)
    objects.append([bytearray(40 + number % 64) for _ in range(4)])
    kept.append(torch.ones(1_000 + number))
print(has_lean_heap(), meter.used() - before)
"""


def grown(environment: dict[str, str]) -> tuple[bool, int]:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lean, size = done.stdout.split()
    return lean == "True", int(size)


def test_what_is_set_stays_as_it_is() -> None:
    given = {"GLIBC_TUNABLES": "glibc.malloc.mxfast=64:glibc.malloc.check=1", "OTHER": "1"}
    given["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "7"
    added = lean_heap(given)
    first, second, *more = added["GLIBC_TUNABLES"].split(":")
    assert (first, second) == ("glibc.malloc.mxfast=64", "glibc.malloc.check=1")
    assert "glibc.malloc.tcache_count=0" in more
    assert not any("mxfast" in one for one in more)
    assert added["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert lean_heap(given | added) == added
    assert "OTHER" not in added


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells what a process holds")
def test_a_worker_needs_no_more_memory_than_other_processes() -> None:
    plain = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    lean, with_it = grown(plain | lean_heap(plain))
    not_lean, without = grown(plain)
    assert (lean, not_lean) == (True, False)
    assert with_it <= 1.05 * without
    assert not has_lean_heap()
