"""One LoRA training of one config, on a base model that stays in memory.

A plain loop: the adapter alone is trained, the loss of a step is the sum over all tokens that count divided
by their number in the whole effective batch, and dropout masks belong to examples (`dropout.py`), so
micro-batches change memory and never the result; nor do several processes that share a batch (`parallel/`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils import clip_grad_norm_

from loracle.config.training.plan import Plan, plan_training
from loracle.config.training.settings import TrainingConfig
from loracle.records.space import Value
from loracle.records.trial import Failure, FailureKind
from loracle.training.dataset.tokens import Encoded
from loracle.training.memory.measurement import meter_of, out_of_memory
from loracle.training.model.adapter import adapter_start, attach, restored, start_from_data
from loracle.training.model.base_model import Base, batches, collate, forked_random
from loracle.training.model.dropout import Masks, key_dropout, training_mode
from loracle.training.model.output.loss import add_gradient
from loracle.training.model.positions import length_breaks
from loracle.training.optimizer import LossScale, Updates
from loracle.training.parallel.group import ALONE, Group
from loracle.training.schedule import example_order, learning_rates
from loracle.training.validation_loss import Best, Watched

_SMOOTH_EXAMPLES = 32  # a loss over fewer examples is too noisy to call a training diverged
_SMOOTH_STEPS = 3


# -- training ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One optimizer step: its number from 1, loss per token, learning rate, gradient norm before clipping,
    and how many tokens were trained on up to its end, without padding."""

    number: int
    total: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int = 0


Progress = Callable[[Step], None]
Measured = Callable[[int, float], None]  # takes a step and the validation loss after it


@dataclass(frozen=True)
class Trained:
    """A base model with its trained adapter attached, and how the training went.

    Attributes:
        model: the PEFT model.
        steps, tokens, seconds: of the loop; tokens without padding, wall-clock time.
        peak_memory: bytes in use at most during the loop, the base model included, as `meter.py` counts them;
            None where the device or the system does not tell.
        start: see `adapter_start`.
        kept_step: the step after which its validation loss was lowest, which the adapter is of; None: the
            last one, as nothing ends the training early.
    """

    model: Any
    steps: tuple[Step, ...]
    tokens: int
    seconds: float
    peak_memory: int | None
    start: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kept_step: int | None = None


class TrainingFailed(Exception):
    """A training that gives no model; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@contextmanager
def train_adapter(
    base: Base,
    encoded: Encoded,
    config: Mapping[str, Value],
    settings: TrainingConfig,
    *,
    seed: int,
    progress: Progress | None = None,
    share: float = 1.0,
    watched: Watched | None = None,
    measured: Measured | None = None,
    group: Group = ALONE,
) -> Iterator[Trained]:
    """Trains an adapter, lends the adapted model to the `with` block, then takes the adapter off again.

    The same seed gives the same adapter, bit for bit, on a CPU with the same number of threads. `share` is
    what the examples are of all training data; `watched` is what early stopping goes by or, without it, what
    is read for the learning curve; `measured` is told its losses; `group` are the processes that train
    together, this one among them.

    Raises:
        ConfigError: see `plan_training`.
        TrainingFailed: the loss diverged or memory ran out.
        ModelError: the base model was not left as it was found.
    """
    plan = plan_training(config, settings, len(encoded), share)
    with ExitStack() as stack:
        failure = None
        try:
            with group.in_step():
                group.begin(
                    encoded=encoded,
                    config=config,
                    settings=settings,
                    seed=seed,
                    share=share,
                    watched=watched,
                    batching={
                        name: getattr(base, name) for name in ("reading", "writing", "continuing", "packing")
                    },
                )
                stack.enter_context(forked_random(base.device))
                torch.manual_seed(seed)
                stack.enter_context(restored(base))
                model = attach(base, plan)
                n = encoded.n_examples
                start_from_data(base, model, plan, encoded, example_order(n, n, seed))
                start = adapter_start(model, plan.settings)
                told = (progress or _nobody, measured or _nobody)
                fit = _fit(base, model, encoded, plan, seed, told, watched, group)
                trained = replace(fit, start=start)
        except RuntimeError as error:
            failure = out_of_memory(error)
            if failure is None:
                raise
        if failure is not None:  # raised here, so that the old traceback no longer holds tensors
            raise TrainingFailed(failure)
        stack.callback(group.finish)
        yield trained


def _fit(
    base: Base,
    model: Any,
    encoded: Encoded,
    plan: Plan,
    seed: int,
    told: tuple[Progress, Measured],
    watched: Watched | None,
    group: Group,
) -> Trained:
    progress, measured = told
    began = time.perf_counter()
    meter = meter_of(base.device)
    if meter is not None:
        meter.restart()
    updates = Updates(model, plan)
    group.start_alike(updates.parameters)
    batches_of, order = _batches(base, encoded, plan, seed, group)
    rates, scale = learning_rates(plan), LossScale(base.dtype)
    steps: list[Step] = []
    stopping = plan.settings.early_stopping if watched is not None else None
    best = Best(stopping, updates.parameters) if stopping is not None else None
    tokens = np.cumsum(encoded.lengths[order])  # (n_seen,)
    for last in [plan.steps] if watched is None else watched.after(plan):
        with training_mode(model):
            for number in range(len(steps), last):
                loss_sum = group.sum_step(updates.parameters, batches_of(number, scale.factor))
                scale.unscale(updates.parameters)
                norm = clip_grad_norm_(updates.parameters, plan.settings.max_gradient_norm)
                # One synchronisation.
                loss, gradient_norm = torch.stack([loss_sum, norm.to(loss_sum)]).tolist()
                rate = rates(number)
                seen = int(tokens[min((number + 1) * plan.batch_size, len(tokens)) - 1])
                steps.append(Step(number + 1, plan.steps, loss, rate, gradient_norm, seen))
                progress(steps[-1])
                if scale.overflowed(gradient_norm):
                    updates.drop()
                    continue
                check_divergence(steps, plan)
                updates.make(rate)
        if watched is not None:
            validation = watched.loss(base, group)
            measured(last, validation)
            if best is not None and best.ends(last, validation):
                break
    if best is not None:
        best.restore()
    return Trained(
        model=model,
        steps=tuple(steps),
        tokens=steps[-1].tokens,
        seconds=time.perf_counter() - began,
        peak_memory=None if meter is None else meter.peak(),
        kept_step=None if best is None else best.step,
    )


def _batches(
    base: Base, encoded: Encoded, plan: Plan, seed: int, group: Group
) -> tuple[Callable[[int, float], torch.Tensor], npt.NDArray[np.int64]]:
    """A function that adds the gradient of this process's part of a step's batch, times a factor, and gives
    its part of the loss; and which example is seen when."""
    order, known_as = examples_seen(encoded, plan, seed)
    masks, breaks = Masks(seed, base.device), length_breaks(base.model)
    key_dropout(base.model, masks, kept_logits=base.counted_alone)

    def add(number: int, factor: float) -> torch.Tensor:
        part = slice(number * plan.batch_size, (number + 1) * plan.batch_size)
        chosen, n_tokens = order[part], int(encoded.counts[order[part]].sum())
        own = group.shares(encoded.lengths[chosen])[group.rank]
        batch = EffectiveBatch(number, chosen[own], known_as[part][own], n_tokens, factor)
        return accumulate(base, encoded, batch, masks, plan.settings.largest_micro_batch, breaks)

    return add, order


def examples_seen(
    encoded: Encoded, plan: Plan, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which example is seen when, and what masks know it as, (n_seen,) each."""
    order = example_order(plan.n_examples, plan.n_seen, seed)
    # An example that comes again in another epoch is another one to the masks, even within one batch.
    return order, encoded.positions[order] + ((np.arange(plan.n_seen) // plan.n_examples) << 32)


@dataclass(frozen=True)
class EffectiveBatch:
    """The examples of one step, or this process's share of them.

    Attributes:
        step: its number, from 0.
        chosen, known_as: which examples these are, and what masks know them as, (n,) each.
        n_tokens: that count, in the whole effective batch.
        factor: what the gradient is multiplied by, see `LossScale`.
    """

    step: int
    chosen: npt.NDArray[np.int64]
    known_as: npt.NDArray[np.int64]
    n_tokens: int
    factor: float = 1.0


def accumulate(
    base: Base,
    encoded: Encoded,
    whole: EffectiveBatch,
    masks: Masks,
    micro_batch: int,
    breaks: tuple[int, ...],
) -> torch.Tensor:
    """Adds the gradient of the effective batch's mean loss per token; returns that loss, shape (): of a share
    of the batch its part of both, which is zero where it has no examples."""
    # Sequences of like length share a micro-batch: less padding, and the sum is the same in any order.
    lengths = encoded.lengths[whole.chosen] - 1
    total = torch.zeros((), device=base.device)
    how = base.reading if encoded.parts is None else base.packing
    assert how is not None, "examples of a row are not kept apart"
    for part in batches(lengths, micro_batch, how, breaks):
        batch = collate(encoded, whole.chosen[part], base)
        with masks.of(whole.step, whole.known_as[part], batch.inputs.shape[1], batch.keep, batch.parts):
            total += add_gradient(base, batch, masks, whole.n_tokens / whole.factor)
    return total / whole.factor


def check_divergence(steps: Sequence[Step], plan: Plan) -> None:
    """Stops a training that cannot recover.

    The loss is compared, after warm-up, with that of the untrained model at the start, each averaged over
    at least 32 examples: one small batch says little.
    """
    last = steps[-1]
    if not math.isfinite(last.loss) or not math.isfinite(last.gradient_norm):
        _diverged(last, f"the loss is {last.loss:g}, the gradient norm {last.gradient_norm:g}")
    width = math.ceil(_SMOOTH_EXAMPLES / plan.batch_size)
    window = max(width, _SMOOTH_STEPS)
    if len(steps) < width + window or last.number <= plan.warmup_steps:
        return
    first = math.fsum(s.loss for s in steps[:width]) / width
    recent = math.fsum(s.loss for s in steps[-window:]) / window
    if recent > plan.settings.divergence_factor * first:
        _diverged(last, f"the loss rose from {first:.3g} to {recent:.3g}")


def _nobody(*told: object) -> None:
    pass


def _diverged(step: Step, what: str) -> None:
    message = (
        f"diverged at step {step.number} of {step.total}: {what} (learning rate {step.learning_rate:.3g})"
    )
    raise TrainingFailed(Failure(FailureKind.DIVERGED, message))
