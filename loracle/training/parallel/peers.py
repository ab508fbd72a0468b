"""The other processes of a trial, and what they do.

The first process is the worker itself: it alone reads data, scores, and talks to the driver. The others
hold a base model each, or a part of one (`shards.py`), and wait at a pipe for trainings, in which they do
their share (`group.py`).

They end together. When one of the others dies, the worker dies in the same way, so that its driver hears of
the cause and replaces all; when the worker has gone, so do the others.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from transformers.utils.logging import disable_progress_bar

from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, ModelError
from loracle.records.contents import require_same_contents
from loracle.records.failures import one_line
from loracle.training.loop import TrainingFailed, train_adapter
from loracle.training.memory.measurement import release
from loracle.training.model.base_model import Base, load_base
from loracle.training.parallel.group import ALONE, FINE, Group, code_of, join, leave
from loracle.training.parallel.shards import ShardedLayers, repeated_layers

_SECONDS_TO_DIE = 1.0  # of a signal


class Peers:
    """The other processes, as the first one has them. They begin to load the base model at once.

    Args:
        config: of the run; `processes` says how many there are in all.
    """

    def __init__(self, config: RunConfig) -> None:
        self._size = config.processes
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection[Any, Any]] = []
        self._closing = False
        context = multiprocessing.get_context("spawn")
        for rank in range(1, self._size):
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(rank, config, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(mine)
        _when_one_ends({process.sentinel: process for process in self._processes}, self._die_like)
        atexit.register(self._end)

    def load_base(self, config: RunConfig, tokenizer: Any | None = None) -> tuple[Base, Group]:
        """The base model, of which this process may hold a part, and the group of all, which have theirs.

        `tokenizer`: see `base_model.load_base`.

        Raises:
            ConfigError, ModelError: see `join` and `base_model.load_base`.
            StudyError: another process has read another model, as its files changed meanwhile.
        """
        base, group = self._loaded(config, tokenizer)
        for pipe in self._pipes:
            require_same_contents(str(config.output), base.checked, pipe.recv())
        return base, group

    def _loaded(self, config: RunConfig, tokenizer: Any | None) -> tuple[Base, Group]:
        if not config.execution.shard_model:
            base = load_base(config, tokenizer=tokenizer)
            return base, self.join(base.device)
        groups: list[Group] = []

        def joined(device: torch.device) -> Group:
            groups.append(self.join(device))
            return groups[0]

        return load_base(config, partial(_divided, joined), tokenizer), groups[0]

    def join(self, device: torch.device) -> Group:
        """Waits until all have loaded their model; the group of all.

        Raises:
            ConfigError: trials run on a device that has no other beside it.
            ModelError: one could not load it.
        """
        if device.type not in ("cpu", "cuda"):
            raise ConfigError(f"execution: {self._size} processes a trial cannot share {device}; use cpu")
        for rank, pipe in enumerate(self._pipes, start=1):
            if problem := pipe.recv():
                raise ModelError(f"{self._named(rank)}: {problem}")
        place = socket.create_server(("127.0.0.1", 0))
        port = place.getsockname()[1]
        store = TCPStore(
            "127.0.0.1", port, self._size, True, wait_for_workers=False, master_listen_fd=place.detach()
        )
        for pipe in self._pipes:
            pipe.send(port)
        join(0, self._size, device, store)
        return Group(0, self._size, self._pipes, self.close)

    def close(self) -> None:
        """Ends them; this process is alone again."""
        self._end()
        leave()

    def _end(self) -> None:
        self._closing = True
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def _die_like(self, ended: BaseProcess) -> None:
        if self._closing:
            return
        ended.join()
        code = ended.exitcode or 1
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        with contextlib.suppress(OSError):
            os.write(2, f"{self._named(self._processes.index(ended) + 1)} {how}\n".encode())
        if code < 0:
            os.kill(os.getpid(), -code)
            time.sleep(_SECONDS_TO_DIE)
        os._exit(max(1, code))

    def _named(self, rank: int) -> str:
        return f"process {rank + 1} of {self._size}"


def load_alone(config: RunConfig, tokenizer: Any | None = None) -> tuple[Base, Group]:
    """As `Peers.load_base`, without any."""
    return load_base(config, tokenizer=tokenizer), ALONE


def serve(rank: int, config: RunConfig, pipe: Connection[Any, Any]) -> None:
    """What another process does: it takes part in trainings until the first one has gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    _when_one_ends({parent.sentinel: None}, lambda _: os._exit(1))
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # as in a worker
    disable_progress_bar()  # the first process has one
    with contextlib.suppress(EOFError, ConnectionError):  # the first one has gone
        base, group = _loaded(rank, config, pipe)
        pipe.send(base.checked)
        while True:
            group.meet()
            _take_part(base, group, pipe, pipe.recv())


def _loaded(rank: int, config: RunConfig, pipe: Connection[Any, Any]) -> tuple[Base, Group]:
    """The base model and the group; if one of them cannot be had, it tells so and waits for its end."""
    groups: list[Group] = []

    def joined(device: torch.device) -> Group:
        pipe.send("")
        port = pipe.recv()
        join(rank, config.processes, device, TCPStore("127.0.0.1", port, config.processes))
        groups.append(Group(rank, config.processes, [pipe]))
        return groups[0]

    try:
        if config.device != "cpu" and torch.cuda.is_available():
            torch.cuda.set_device(rank % torch.cuda.device_count())
        base = load_base(config, partial(_divided, joined) if config.execution.shard_model else None)
        return base, groups[0] if groups else joined(base.device)
    except Exception as error:  # of any kind: the first process has most likely met the same
        if groups and not groups[0].parted:  # the others wait for it, and end with it
            raise
        if groups:
            traceback.print_exc()
        else:
            pipe.send(one_line(error))
        while True:
            pipe.recv()


def _divided(join: Callable[[torch.device], Group], model: Any, device: torch.device) -> ShardedLayers:
    """Divides a model in all processes, once they have joined."""
    repeated_layers(model)  # raises in all of them, before any waits for the others
    group = join(device)
    with group.in_step():
        layers = ShardedLayers(model, device, group)
        layers.check()
    return layers


def _take_part(base: Base, group: Group, pipe: Connection[Any, Any], training: dict[str, Any]) -> None:
    """Trains with the others, and does what the first one asks of the trained model. That a training failed
    they know, where it did, and the first one says what follows."""
    base = replace(base, **training.pop("batching"))
    try:
        with train_adapter(base, **training, group=group):
            while (asked := _asked(group, pipe)) is not None:
                answer = _answer(base, *asked) if asked else None
                group.meet()  # before the first one takes it, as others may still need parts of this one
                if asked:
                    pipe.send(answer)
    except Exception as error:
        if not group.parted:
            raise
        if not isinstance(error, TrainingFailed):
            traceback.print_exc()
    if base.device.type == "cpu":
        release(base.device)  # as after a trial


def _asked(group: Group, pipe: Connection[Any, Any]) -> Any:
    """What the first process says next."""
    group.meet()
    return pipe.recv()


def _answer(base: Base, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[int, Any]:
    """What became of it, and what it gave or says."""
    try:
        return FINE, function(base, *arguments)
    except Exception as error:  # of any kind: it is the first process's to judge
        traceback.print_exc()
        code, said = code_of(error), one_line(error)
    release(base.device)  # here, where the error no longer holds tensors
    return code, said


def _when_one_ends(processes: Mapping[int, Any], then: Callable[[Any], None]) -> None:
    """Watches processes, given by their sentinels, in a thread; the first that ends is handed over."""

    def watch() -> None:
        then(processes[wait(list(processes))[0]])  # type: ignore[index]

    threading.Thread(target=watch, daemon=True).start()
