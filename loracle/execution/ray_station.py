"""What runs on a node of a Ray cluster: an actor that watches over one isolated worker there.

Its answers are texts, the lines of `messages.py`, and each comes within about a second.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import loracle
from loracle.config.settings import RunConfig
from loracle.errors import LoracleError
from loracle.execution.executor import Job
from loracle.execution.local import LocalWorkers
from loracle.execution.messages import Alive, Finished, Message, Ready, Refused, Stepped, lines_of
from loracle.execution.ray_files import ADAPTER, PIECE, run_identity, scratch_folder
from loracle.records.codec import from_plain
from loracle.records.contents import Beginning
from loracle.records.objective import Part

_SECONDS_A_LOOK = 1.0


class Station:
    """What runs on a node: one worker, and who watches over it.

    Args:
        config: JSON of the run's config.
        run: how the driver sees its run folder; see `run_identity`.
        position: of the place, from 0.
        program: what a worker runs, as a path in this package.
    """

    def __init__(self, config: str, run: str, position: int, program: str) -> None:
        settings = RunConfig.model_validate_json(config)
        self._sees_run = bool(run) and run_identity(settings.output) == run
        self._scratch = None if self._sees_run else scratch_folder()
        home = self._scratch or settings.output / "workers"
        # Ray has chosen the GPUs: they are all that can be seen here.
        changes: dict[str, Any] = {"workers": 1, "gpus_per_trial": 0}
        if settings.objective is None:
            changes["processes_per_trial"] = settings.processes
        execution = settings.execution.model_copy(update=changes)
        changes = {"output": home / f"ray-{position}", "execution": execution}
        here = Path(loracle.__file__).parent / program
        self._workers = LocalWorkers(settings.model_copy(update=changes), here)

    def ready(self) -> str:
        """Answers as soon as the station stands: with nothing."""
        return ""

    def load(self) -> str:
        """Has the worker load its objective; to be asked again until the answer is `Ready` or `Refused`."""
        try:
            report = self._workers.load_within(_SECONDS_A_LOOK)
        except LoracleError as error:
            return lines_of([Refused.of(error)])
        return lines_of([Alive() if report is None else Ready(report)])

    def begin(self, job: str, began: str) -> str:
        """Starts a job of a run that `began` with this, and answers as `wait`."""
        known = json.loads(began)
        self._workers.began = None if known is None else from_plain(Beginning, known)
        wanted = from_plain(Job, json.loads(job))
        if self._scratch is not None:
            trial = self._scratch / "trial" / wanted.folder.name  # a trainer may read its number there
            shutil.rmtree(trial.parent, ignore_errors=True)
            wanted = replace(wanted, folder=trial, adapter=wanted.adapter and trial.parent / ADAPTER)
        self._workers.submit(wanted)
        return self.wait()

    def wait(self) -> str:
        """What happened: `Stepped`, at last `Finished` or `Refused`; nothing after a second."""
        told: list[Message] = []

        def tell(number: int, step: int, total: int, loss: float | None, part: Part = "training") -> None:
            told[:] = [Stepped(step, total, loss, part)]  # the last is enough

        try:
            done = self._workers.wait(_SECONDS_A_LOOK, tell)
        except LoracleError as error:
            return lines_of([Refused.of(error)])
        return lines_of([*told, *(Finished((one.outcome,), 0, files=not self._sees_run) for one in done)])

    def end(self) -> None:
        """Ends the worker, and leaves nothing on the node."""
        self._workers.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def files(self) -> str:
        """Files of the job that ended last, as a list of paths below `trial/NAME` or `adapter`."""
        assert self._scratch is not None
        top = self._scratch / "trial"
        paths = [path for path in top.rglob("*") if path.is_file() and not path.is_symlink()]
        return json.dumps([str(path.relative_to(top)) for path in paths])

    def piece(self, name: str, start: int) -> bytes:
        """A part of a file, so that none has to fit into memory; nothing at its end."""
        assert self._scratch is not None
        with (self._scratch / "trial" / name).open("rb") as file:
            file.seek(start)
            return file.read(PIECE)
