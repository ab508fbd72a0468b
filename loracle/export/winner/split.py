"""The effective batch, split over devices, micro-batches and accumulation."""

from __future__ import annotations

from dataclasses import dataclass

from loracle.errors import StudyError


@dataclass(frozen=True)
class Split:
    """Their product is the effective batch: `micro` sequences on each of `devices`, `accumulation` times."""

    devices: int
    micro: int
    accumulation: int

    def __str__(self) -> str:
        effective = self.devices * self.micro * self.accumulation
        return (
            f"effective batch {effective} = {self.devices} device{'s' * (self.devices > 1)} x micro-batch "
            f"{self.micro} x accumulation {self.accumulation}"
        )


def split_batch(effective: int, devices: int, *, largest: int, micro: int | None = None) -> Split:
    """Splits an effective batch exactly.

    Args:
        effective: sequences in an optimizer step.
        devices: that train together.
        largest: micro-batch that is known to fit; the largest divisor up to it is taken.
        micro: one that is asked for.

    Raises:
        StudyError: the batch cannot be split so.
    """
    if effective % devices:
        fitting = [n for n in range(1, min(effective, 64) + 1) if effective % n == 0]
        raise StudyError(
            f"--devices: the effective batch of {effective} cannot be shared out to {devices} devices; "
            f"numbers that divide it: {', '.join(map(str, fitting))}"
        )
    share = effective // devices
    if micro is None:
        micro = next(size for size in range(min(share, largest), 0, -1) if share % size == 0)
    if share % micro:
        fitting = [n for n in range(1, share + 1) if share % n == 0]
        raise StudyError(
            f"--micro-batch: {micro} does not divide the {share} sequences that each of {devices} "
            f"device{'s' * (devices > 1)} trains a step; what does: {', '.join(map(str, fitting))}"
        )
    return Split(devices, micro, share // micro)
