"""The processes that train together: each has a share of the examples of every step.

What they exchange is what the optimizer sees, the sum of all gradients and of the loss, so that the same step
is made in all of them. accelerate's state joins them to a process group of torch: gloo on CPUs, and NCCL for
what is on GPUs.

Scoring is divided as well: the first process asks the others through pipes, and alone puts answers together.

Whatever happens to one happens to all. Before anything is exchanged each tells whether it got there
(`agree`), and one that fails tells it at that moment: so memory that runs out in one of them ends the attempt
in all of them, and none waits for another in vain. One that dies takes the others along; see `peers.py`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.nn.utils import parameters_to_vector

from loracle.records.failures import one_line
from loracle.training.memory.measurement import out_of_memory

Result = TypeVar("Result")

FINE, _NO_MEMORY, _FAILED, _LAYER = range(4)  # from the last on: a layer of a divided model is wanted
_HOWEVER_LONG = datetime.timedelta(days=365)  # who watches the worker decides how long is too long
_SECONDS_TO_DIE = 10.0  # until a process whose connection broke is known to have died


class Group:
    """The processes of a training, as one of them sees them. Without arguments: it is alone.

    Args:
        rank: which one this is, from 0.
        size: how many there are.
        pipes: of the first process those to all others, in their order; of the others the one to the first.
        close: ends the others, as far as the first process can; it is alone then.

    Attributes:
        rank, size, close: as given.
        parted: whether this training is over because one of them failed, and all know it.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        pipes: Sequence[Connection[Any, Any]] = (),
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.close = close
        self.rank = rank
        self.size = size
        self.parted = False
        self._pipes = pipes
        self._others = pipes if rank == 0 else ()  # who does what this process says
        self._give: Callable[[int, Sequence[int]], None] | None = None

    def begin(self, **training: Any) -> None:
        """Has the others take part in a training, of which this is all that they have to know."""
        if self.rank == 0:
            self.meet()
        for pipe in self._others:
            while pipe.poll():  # what nobody asked for about the one before
                pipe.recv()
            pipe.send(training)

    def finish(self) -> None:
        """Has the others take their adapters off."""
        if self.rank == 0:
            self.meet()
        for pipe in self._others:
            with contextlib.suppress(OSError):  # it is dying, and so will this one
                pipe.send(None)

    def at_once(
        self, own: Callable[[], Result], function: Callable[..., Result], others: Sequence[tuple[Any, ...]]
    ) -> list[Result]:
        """Results of `own` here and, meanwhile, of `function(base, *arguments)` for each of `others` in
        another process, in this order. Between the end of a training and `finish`.

        Raises:
            torch.OutOfMemoryError, RuntimeError: as `in_step`, and whatever `own` raises.
        """
        self.meet()
        pipes = self._others[: len(others)]
        for pipe, arguments in zip(pipes, others, strict=True):
            pipe.send((function, arguments))
        for pipe in self._others[len(others) :] if self._give is not None else ():
            pipe.send(())
        try:
            results = [own()]
        finally:  # whatever happens here, nobody is left in the middle of a word
            self.meet()
            replies = [self._together(pipe.recv) for pipe in pipes]
        for rank, (code, found) in enumerate(replies, start=1):
            self._require(code, rank, found)
            results.append(found)
        return results

    def shares(self, lengths: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Positions of the examples that are each process's, of all with these lengths: there may be none.

        Dealt out by length, so that all have as much to do.
        """
        if self.size == 1:
            return [np.arange(len(lengths))]
        order = np.argsort(-lengths, kind="stable")
        return [order[rank :: self.size] for rank in range(self.size)]

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """A block that all processes leave in the same way: at its end, or all with an error.

        Raises:
            torch.OutOfMemoryError: another process ran out of memory.
            RuntimeError: another process failed.
        """
        self.parted = False
        if self.size == 1:
            yield
            return
        try:
            yield
            self.agree()
        except Exception as error:
            if not self.parted:
                if self.rank > 0:  # what it says comes before the others know that it has failed
                    self._pipes[0].send(one_line(error))
                self._exchange(code_of(error))
            raise

    def agree(self) -> None:
        """All processes are here. Raises as `in_step`, where one of them failed before it came here."""
        if self.size == 1:
            return
        self._require_all(self._exchange(FINE))

    def _require_all(self, codes: list[int]) -> None:
        if not self.parted:
            return
        failed = [code if code < _LAYER else FINE for code in codes]
        rank = int(np.argmax(failed))
        said = self._others[rank - 1].recv() if self._others else "it failed"
        self._require(codes[rank], rank, said)

    def _require(self, code: int, rank: int, said: str) -> None:
        where = f"in process {rank + 1} of {self.size}: {said}"
        if code == _NO_MEMORY:
            raise torch.OutOfMemoryError(f"out of memory {where}")
        if code == _FAILED:
            raise RuntimeError(where)

    @torch.no_grad()
    def start_alike(self, parameters: list[torch.nn.Parameter]) -> None:
        """Gives all processes the parameters of the first."""
        if self.size == 1:
            return
        self.agree()
        whole = parameters_to_vector(parameters)
        self._together(distributed.broadcast, whole, 0)
        for parameter, part in zip(
            parameters, torch.split(whole, [p.numel() for p in parameters]), strict=True
        ):
            parameter.copy_(part.view_as(parameter))

    def sum_step(self, parameters: list[torch.nn.Parameter], loss: torch.Tensor) -> torch.Tensor:
        """Sums gradients, in place, and returns the sum of the losses, shape ().

        A parameter that no process has a gradient of keeps none: the optimizer leaves it as it is.
        """
        if self.size == 1:
            return loss
        self.agree()
        sizes = [p.numel() for p in parameters]
        n = len(parameters)
        whole = torch.zeros(sum(sizes) + n + 1, device=loss.device)  # gradients, whether there are any, loss
        *parts, there, total = torch.split(whole, [*sizes, n, 1])
        total.copy_(loss)
        there.copy_(torch.tensor([p.grad is not None for p in parameters]))
        for parameter, part in zip(parameters, parts, strict=True):
            if parameter.grad is not None:
                part.copy_(parameter.grad.flatten())
        self._together(distributed.all_reduce, whole)
        for parameter, part, any_there in zip(parameters, parts, there.tolist(), strict=True):
            if any_there:
                parameter.grad = part.view_as(parameter).to(parameter.dtype)
        return total[0]

    def sum(self, value: float) -> float:
        """The sum of what each process has."""
        if self.size == 1:
            return value
        self.agree()
        whole = torch.tensor([value], dtype=torch.float64)
        self._together(distributed.all_reduce, whole)
        return float(whole.item())

    def serve_layers(self, give: Callable[[int, Sequence[int]], None]) -> None:
        """The processes hold parts of a model. From now on, whoever waits for the others does meanwhile what
        those need who still compute: `give(layer, ranks)`, which all processes call at once."""
        self._give = give

    def fetch(self, layer: int) -> None:
        """Returns when this process has been given a layer; the others wait, or want one, too.

        Raises:
            torch.OutOfMemoryError, RuntimeError: as `in_step`.
        """
        assert self._give is not None
        if self.size == 1:
            self._give(layer, [0])
            return
        self._require_all(self._exchange(_LAYER + layer))

    def meet(self) -> None:
        """Where the processes hold parts of a model: all are here, and none needs another's part. What one
        does alone it does between two of these, in the last of which the others wait."""
        if self._give is not None:
            self.agree()

    def _exchange(self, code: int) -> list[int]:
        """What has become of each process, (size,), when nobody wants a layer or this one has got its own."""
        while True:
            codes = torch.zeros(self.size, dtype=torch.int64)
            codes[self.rank] = code
            self._together(distributed.all_reduce, codes)
            found: list[int] = codes.tolist()
            self.parted = any(FINE < one < _LAYER for one in found)
            wanted = sorted({one for one in found if one >= _LAYER})
            if self.parted or not wanted:
                return found
            assert self._give is not None
            for one in wanted:
                ranks = [rank for rank, own in enumerate(found) if own == one]
                self._together(self._give, one - _LAYER, ranks)
            if code >= _LAYER:
                return found

    def _together(self, exchange: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return exchange(*arguments)
        except (RuntimeError, EOFError, OSError):
            # A connection broke, as its other end is dying; then this one dies like it.
            self.parted = True
            time.sleep(_SECONDS_TO_DIE)
            raise


ALONE = Group()


def code_of(error: Exception) -> int:
    """What the others are told of an error."""
    return _NO_MEMORY if out_of_memory(error) else _FAILED


def join(rank: int, size: int, device: torch.device, store: Store) -> None:
    """Joins a group of processes that all know of `store`; waits for the others."""
    from accelerate import PartialState
    from accelerate.utils import check_cuda_p2p_ib_support, patch_environment

    here = {"rank": rank, "world_size": size, "local_rank": rank, "local_world_size": size}
    backend = "gloo"
    if device.type == "cuda" and torch.cuda.device_count() >= size:  # NCCL wants a GPU for each
        backend = "cpu:gloo,cuda:nccl"
        if not check_cuda_p2p_ib_support():  # GeForce 40: as `accelerate launch` has it
            os.environ |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
    # Only now: programs that scoring starts would take themselves for a part of this.
    with patch_environment(
        **here,
        master_addr="127.0.0.1",
        master_port=0,
        omp_num_threads=torch.get_num_threads(),  # else it chooses
        gloo_socket_ifname="lo" if sys.platform == "linux" else "lo0",  # all are on this machine
    ):
        PartialState._reset_state()  # there is one in a process; a trainer of transformers leaves that of one
        PartialState(
            cpu=device.type == "cpu",
            backend=backend,
            store=store,
            rank=rank,
            world_size=size,
            timeout=_HOWEVER_LONG,
        )


def leave() -> None:
    """Undoes `join`, where that was done."""
    if distributed.is_initialized():
        from accelerate import PartialState

        PartialState().destroy_process_group()
        PartialState._reset_state()
