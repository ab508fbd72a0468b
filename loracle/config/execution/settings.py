"""Settings of where trials run: processes, GPUs, limits, and where a run is kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from loracle.config.section import Section

MANY = 1000  # processes, GPUs or threads: beyond it is a slip


class ExecutionConfig(Section):
    """Where trials run, and when one is given up."""

    workers: Annotated[int, Field(ge=0, le=MANY)] = 1  # processes; 0: this very one, nothing is isolated
    # Where there are GPUs. None: 1, and all that can be seen, in equal shares, for an own trainer's workers.
    gpus_per_trial: Annotated[int, Field(ge=0, le=MANY)] | None = None
    # That train one trial together, of the built-in trainer. None: one for each of its GPUs.
    processes_per_trial: Annotated[int, Field(ge=1, le=MANY)] | None = None
    # Whether these processes divide the layers of the base model among them, in place of one model each.
    shard_model: bool = False
    # Whose adapters are trained in one forward pass; auto: as many as are measured to pay when a run begins.
    trials_together: Literal["auto"] | Annotated[int, Field(ge=1, le=8)] = 1
    executor: Literal["local", "ray"] = "local"
    time_limit: Annotated[float, Field(gt=0)] | None = None  # seconds a trial
    stall_limit: Annotated[float, Field(gt=0)] = 900.0  # seconds without a sign of life
    memory_growth_gb: Annotated[float, Field(gt=0)] = 1.0  # then a worker is replaced between trials
    cost_per_hour: Annotated[float, Field(gt=0)] | None = None  # of all workers together, in any currency
    watts: Annotated[float, Field(gt=0)] | None = None  # that all workers together draw: tells energy
    # None: a journal in the run folder; else sqlite:///, postgresql:// or ${NAME}, a variable that holds it.
    storage: str | None = None
