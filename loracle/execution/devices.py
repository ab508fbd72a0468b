"""Shares a machine's GPUs and CPU cores out among its workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from loracle.errors import ConfigError

_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA under Windows, AMD


def threads_each(wanted: int | None, workers: int, *, cores: int | None = None) -> int | None:
    """CPU threads of each worker; None: as torch chooses. More threads than cores make all of them slow.

    Args:
        wanted: what the config says.
        workers: how many there are.
        cores: of the CPU; None: those that this process may use.
    """
    if wanted is not None or workers == 1 or "OMP_NUM_THREADS" in os.environ:
        return wanted
    return max(1, (cores or _cores()) // workers)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_devices(
    device: str,
    workers: int,
    gpus: int | None,
    *,
    own: bool = False,
    processes: int = 1,
    count: Callable[[], int] | None = None,
) -> list[dict[str, str]]:
    """Environment of each worker: its own slice of the GPUs that this process may see.

    Args:
        device: as in the config.
        workers: how many there are.
        gpus: for each. With 0, or where there is no GPU, nothing is shared out. None: one a process; of an
            own trainer, which may be a `torchrun` over many, an equal share, so that one worker sees all.
        own: whether the trainer is the user's own.
        processes: of each worker, of the built-in trainer.
        count: how many GPUs there are; asked only where it matters. None: as torch counts them.

    Raises:
        ConfigError: there are fewer than `workers` x `gpus`, or none where the built-in trainer should have
            several, or `device` names a single one.
    """
    if device.startswith("cuda:"):
        if workers > 1:
            raise ConfigError(f"device: {workers} workers cannot share {device}; use cuda or auto")
        return [{}]
    if gpus == 0 or device in ("cpu", "mps") or (gpus is None and own and workers == 1):
        return [{}] * workers
    found = (count or _count_gpus)()  # what CUDA_VISIBLE_DEVICES leaves
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(found)] if given is None else [name.strip() for name in given.split(",")]
    visible = names[:found]
    if not visible:
        if not own and gpus is not None and gpus > 1:
            raise ConfigError(
                f"execution.gpus_per_trial: {gpus} are asked for, and no GPU can be seen; for several "
                "processes on the CPU set processes_per_trial"
            )
        return [{}] * workers
    if gpus is None:
        gpus = max(1, len(visible) // workers) if own else processes
    if len(visible) < workers * gpus:
        raise ConfigError(
            f"execution: {workers} workers with {gpus} GPU(s) each need {workers * gpus}, but {len(visible)} "
            "can be seen; lower workers, or GPUs or processes a trial (gpus_per_trial: 0: all share all GPUs)"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(visible[i * gpus : (i + 1) * gpus])} for i in range(workers)]


def _count_gpus() -> int:
    """GPUs as torch counts them, in a process of its own: the driver carries no torch."""
    if not any(Path(path).exists() for path in _GPU_DRIVERS):
        return 0
    count = "import torch; print(torch.cuda.device_count())"
    found = subprocess.run([sys.executable, "-P", "-c", count], capture_output=True, text=True, check=False)
    return int(found.stdout) if found.returncode == 0 else 0
