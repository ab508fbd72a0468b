"""What memory there is and how much of it is used: on a CUDA device, or by this process where trials run on
the CPU. Both answer the same questions, so that whatever plans with memory need not know which it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path
from typing import Protocol

import psutil
import torch

from loracle.records.failures import says_no_memory, traceback_tail
from loracle.records.trial import Failure, FailureKind
from loracle.training.memory.control_groups import free_in_groups

_PROC = Path("/proc/self")


class Meter(Protocol):
    """Memory of a device, in bytes."""

    def used(self) -> int:
        """What this process uses now."""
        ...

    def limit(self) -> int:
        """The most that this process could use now: what it uses and what is free."""
        ...

    def peak(self) -> int | None:
        """The most it has used since `restart`; None where the system does not tell."""
        ...

    def restart(self) -> None:
        """Forgets the peak so far."""
        ...


def meter_of(device: torch.device) -> Meter | None:
    """The meter of a device; None for a kind of device that cannot be asked."""
    if device.type == "cuda":
        return CudaMeter(device)
    return ProcessMeter() if device.type == "cpu" and _PROC.exists() else None


def release(device: torch.device) -> None:
    """Gives back what no tensor uses any more, so that the next allocation finds it in one piece.

    On a CPU the C library keeps what was freed: after a training of Gemma 3 270M with rank 256, 1.4 GB of it.
    """
    if device.type != "cpu":
        gc.collect()
        torch.get_device_module(device).empty_cache()
    elif (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc's alone
        trim(0)


def out_of_memory(error: BaseException) -> Failure | None:
    """The failure that an exception stands for, if it says that memory ran out."""
    if not isinstance(error, torch.OutOfMemoryError) and not says_no_memory(error):
        return None
    text = str(error) or "no memory left"
    return Failure(FailureKind.OUT_OF_MEMORY, text.splitlines()[0], traceback_tail(error))


class CudaMeter:
    """Tensors on a CUDA device. What the allocator keeps for later counts as free."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def used(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def limit(self) -> int:
        free, _ = torch.cuda.mem_get_info(self._device)
        return free + torch.cuda.memory_reserved(self._device)

    def peak(self) -> int | None:
        return torch.cuda.max_memory_allocated(self._device)

    def restart(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)


class ProcessMeter:
    """Resident memory of this process, on Linux."""

    def __init__(self) -> None:
        self._restarted = False

    def used(self) -> int:
        return int(psutil.Process().memory_info().rss)

    def limit(self) -> int:
        free = int(psutil.virtual_memory().available)
        return self.used() + min([free, *free_in_groups()])

    def peak(self) -> int | None:
        return max(_resident_peak(), self.used()) if self._restarted else None

    def restart(self) -> None:
        self._restarted = False
        with contextlib.suppress(OSError):  # some sandboxes forbid it; then there is no peak
            (_PROC / "clear_refs").write_text("5")  # proc(5): resets the peak resident set size
            self._restarted = True


def _resident_peak() -> int:
    """The most this process has had resident, in bytes, from `VmHWM:   1024 kB`; psutil does not tell it."""
    lines = (_PROC / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
