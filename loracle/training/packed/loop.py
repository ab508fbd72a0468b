"""Trains the adapters of several configs in one forward pass over the frozen base model.

A small model waits for calls more than for arithmetic, and one pass over the rows of k configs makes little
more calls than one over those of a single config. Each config has its own order of examples, effective batch,
dropout masks, gradient norm, learning rate and optimizer, so that it learns what it would learn alone, but
for rounding; and its own failure: what diverges counts no more, and the others are the same to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from loracle.config.training.plan import Plan, plan_training
from loracle.config.training.settings import TrainingConfig
from loracle.records.space import Value
from loracle.records.trial import Failure
from loracle.training.dataset.tokens import Encoded
from loracle.training.loop import Step, Trained, TrainingFailed, check_divergence
from loracle.training.memory.measurement import meter_of, out_of_memory
from loracle.training.model.adapter import attach, layers_of, restored
from loracle.training.model.base_model import Base, forked_random
from loracle.training.model.dropout import ExampleDropout, Masks, key_dropout, training_mode
from loracle.training.model.module_tree import ModuleTree
from loracle.training.model.output.loss import add_weighted_gradient
from loracle.training.optimizer import Updates
from loracle.training.packed.conditions import why_alone, why_not_adapted
from loracle.training.packed.linear import NotPacked, Pack, Start
from loracle.training.packed.pieces import pieces, together
from loracle.training.schedule import learning_rates

Progress = Callable[[int, Step], None]  # takes which config, and its step


@dataclass(frozen=True)
class PackedResult:
    """What came of one config among several.

    Attributes:
        plan: its training.
        steps: those that it took.
        failure: why it gives no model, if so.
        state: A and B by the name of the adapted module.
        seconds: its share of the wall-clock time.
        peak_memory: bytes in use at most, by all together; None where nobody tells.
    """

    plan: Plan
    steps: tuple[Step, ...]
    failure: Failure | None
    state: Mapping[str, tuple[Tensor, Tensor]]
    seconds: float
    peak_memory: int | None

    @property
    def tokens(self) -> int:
        """That it was trained on, without padding."""
        return self.steps[-1].tokens


def train_packed(
    base: Base,
    encoded: Encoded,
    configs: Sequence[Mapping[str, Value]],
    settings: TrainingConfig,
    *,
    seed: int,
    progress: Progress | None = None,
    share: float = 1.0,
) -> list[PackedResult]:
    """Trains an adapter of each config, all at once; `lent` lends the model with one of them.

    Arguments are those of `loop.train_adapter`.

    Raises:
        ConfigError: see `plan_training`.
        NotPacked: these configs cannot be trained together on this model; train each alone.
        TrainingFailed: memory ran out; train fewer together.
        ModelError: the base model was not left as it was found.
    """
    if encoded.parts is not None:
        raise NotPacked("their rows are blocks of several examples")
    plans = [plan_training(config, settings, len(encoded), share) for config in configs]
    for plan in plans:
        if reason := why_alone(base, plan):
            raise NotPacked(reason)
    failure = None
    try:
        with forked_random(base.device), restored(base) as tree:
            pack = _begin(base, plans, seed, tree)
            with pack.on(base.model), training_mode(base.model):
                return _fit(base, encoded, plans, pack, seed, progress or _nobody)
    except RuntimeError as error:
        failure = out_of_memory(error)
        if failure is None:
            raise
    raise TrainingFailed(failure)  # here, so that the old traceback no longer holds tensors


@contextmanager
def lent(base: Base, result: PackedResult) -> Iterator[Trained]:
    """Lends the model with a config's trained adapter to the `with` block, as `loop.train_adapter` does.

    Raises:
        TrainingFailed: it has none.
        ModelError: the base model was not left as it was found.
    """
    if result.failure is not None:
        raise TrainingFailed(result.failure)
    with ExitStack() as stack:
        stack.enter_context(forked_random(base.device))
        stack.enter_context(restored(base))
        model = attach(base, result.plan).eval()
        with torch.no_grad():
            for layer in layers_of(model):
                for part, values in zip(("lora_A", "lora_B"), result.state[layer.name], strict=True):
                    getattr(layer.module, part)["default"].weight.copy_(values)
        yield Trained(model, result.steps, result.tokens, result.seconds, result.peak_memory)


# -- start ------------------------------------------------------------------------------------------


def _begin(base: Base, plans: Sequence[Plan], seed: int, tree: ModuleTree) -> Pack:
    """Every config's adapter as it begins alone."""
    starts = []
    for plan in plans:
        torch.manual_seed(seed)
        model = attach(base, plan)
        starts.append(_start(base, model, plan))
        tree.restore()
    if any(start.pairs.keys() != starts[0].pairs.keys() for start in starts):
        raise NotPacked("the configs adapt different modules")
    return Pack(base.model, starts)


def _start(base: Base, model: nn.Module, plan: Plan) -> Start:
    """A config's untrained adapter."""
    layers = layers_of(model)
    if reason := why_not_adapted(base, layers):
        raise NotPacked(reason)
    words = {}
    if plan.dropout:
        key_dropout(base.model, Masks(0, base.device), kept_logits=base.counted_alone)
    pairs, scale = {}, 1.0
    for layer in layers:
        a, b = (getattr(layer.module, part)["default"].weight.detach() for part in ("lora_A", "lora_B"))
        pairs[layer.name] = (a, b)
        scale = float(layer.module.scaling["default"])
        dropout = layer.module.lora_dropout["default"]
        if isinstance(dropout, ExampleDropout):
            words[layer.name] = dropout.words
    return Start(pairs, scale, plan.dropout, words)


# -- training ---------------------------------------------------------------------------------------


class _Member(nn.Module):
    """One config among several: all its numbers as one parameter, its optimizer, and how far it is."""

    def __init__(self, pack: Pack, i: int, plan: Plan) -> None:
        super().__init__()
        self.values = nn.Parameter(pack.values[i])
        self.gradient = pack.gradients[i]
        self.plan, self.rates = plan, learning_rates(plan)
        self.updates = Updates(self, plan)
        self.steps: list[Step] = []
        self.failure: Failure | None = None

    def norm(self) -> Tensor:
        """The gradient's, which is clipped by it."""
        self.values.grad = self.gradient
        return clip_grad_norm_([self.values], self.plan.settings.max_gradient_norm)

    @torch.no_grad()
    def step(self, loss: float, norm: float, tokens: int) -> Step:
        """Makes an update of the gradient, or fails."""
        number = len(self.steps)
        seen = tokens + (self.steps[-1].tokens if self.steps else 0)
        rate = self.rates(number)
        self.steps.append(Step(number + 1, self.plan.steps, loss, rate, norm, seen))
        try:
            check_divergence(self.steps, self.plan)
        except TrainingFailed as failed:
            self.failure = failed.failure
            self.values.zero_()  # the base model, which gives numbers
        else:
            self.updates.make(rate)
        self.gradient.zero_()
        return self.steps[-1]


def _fit(
    base: Base,
    encoded: Encoded,
    plans: Sequence[Plan],
    pack: Pack,
    seed: int,
    progress: Progress,
) -> list[PackedResult]:
    began = time.perf_counter()
    meter = meter_of(base.device)
    if meter is not None:
        meter.restart()
    members = [_Member(pack, i, plan) for i, plan in enumerate(plans)]
    most = min(plans[0].settings.largest_micro_batch, *(plan.batch_size for plan in plans))
    streams = [pieces(encoded, plan, seed, most, base) for plan in plans]
    totals = torch.zeros(len(plans), device=base.device)
    tokens = [0] * len(plans)
    while any(m.failure is None and len(m.steps) < m.plan.steps for m in members):
        found = [next(stream, None) for stream in streams]
        alive = [m.failure is None for m in members]
        rows = together(encoded, found, alive, plans, seed, base)
        pack.rows, pack.drops = (rows.batch.inputs.shape[0], rows.batch.inputs.shape[1]), rows.drops
        losses = add_weighted_gradient(base, rows.batch, rows.weights)
        totals.index_add_(0, rows.owners, losses * rows.weights)
        for i, piece in enumerate(found):
            if piece is not None:
                tokens[i] += int(encoded.lengths[piece.chosen].sum())
        stepping = [i for i, piece in enumerate(found) if piece is not None and piece.ends and alive[i]]
        if not stepping:
            continue
        norms = torch.stack([members[i].norm().to(totals) for i in stepping])
        # One synchronisation.
        for i, loss, norm in zip(stepping, *torch.stack([totals[stepping], norms]).tolist(), strict=True):
            progress(i, members[i].step(loss, norm, tokens[i]))
            tokens[i] = 0
        totals[stepping] = 0.0
    seconds = (time.perf_counter() - began) / len(plans)
    peak = None if meter is None else meter.peak()
    return [
        PackedResult(
            plan=m.plan,
            steps=tuple(m.steps),
            failure=m.failure,
            state=pack.state(i) if m.failure is None else {},
            seconds=seconds,
            peak_memory=peak,
        )
        for i, m in enumerate(members)
    ]


def _nobody(*told: object) -> None:
    pass
