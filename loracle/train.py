"""One LoRA training of one config, on a base model that stays in memory.

A plain loop: the adapter alone is trained, the loss of a step is the sum over all tokens that count divided
by their number in the whole effective batch, so micro-batches change memory and never the result.
"""

from __future__ import annotations

import difflib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import ValidationError
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from loracle.config import TrainingConfig
from loracle.data import Encoded
from loracle.errors import ConfigError, ModelError
from loracle.meter import meter_of, release
from loracle.model import Base, collate, counted_logits, weights_fingerprint
from loracle.outcomes import out_of_memory_text, traceback_tail
from loracle.space import Value
from loracle.trial import Failure, FailureKind

_REQUIRED = ("rank", "learning_rate", "batch_size")
_ALPHA = ("alpha", "alpha_ratio")
_OVERRIDES = ("epochs", "warmup_fraction", "weight_decay", "max_gradient_norm")
KNOBS = (*_REQUIRED, *_ALPHA, "dropout", *_OVERRIDES)

_SMOOTH_EXAMPLES = 32  # a loss over fewer examples is too noisy to call a training diverged
_SMOOTH_STEPS = 3


# -- knobs and settings -----------------------------------------------------------------------------


def check_knobs(names: Sequence[str]) -> None:
    """Checks that a training understands every knob and lacks none.

    Raises:
        ConfigError: an unknown, missing or doubled knob.
    """
    for name in names:
        if name not in KNOBS:
            close = difflib.get_close_matches(name, KNOBS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(KNOBS)}"
            raise ConfigError(f"training has no knob {name!r}; {hint}")
    missing = [name for name in _REQUIRED if name not in names]
    if not any(name in names for name in _ALPHA):
        missing.append("alpha_ratio (or alpha)")
    if missing:
        raise ConfigError(f"training needs a knob for {', '.join(missing)}; one value is enough to fix it")


@dataclass(frozen=True)
class Plan:
    """A training as config and settings make it: `n_seen` examples, repeats included, in `steps` updates."""

    rank: int
    alpha: float
    dropout: float
    learning_rate: float
    batch_size: int
    n_examples: int
    n_seen: int
    steps: int
    warmup_steps: int
    settings: TrainingConfig

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0. Warm-up starts above zero, so no step is wasted."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        factors = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
        return self.learning_rate * factors[self.settings.schedule]


def plan_training(config: Mapping[str, Value], settings: TrainingConfig, n_examples: int) -> Plan:
    """Derives a plan. Epochs may be fractional; epochs follow one another without a short batch between.

    Raises:
        ConfigError: unknown or missing knobs, or a value that the settings refuse.
    """
    check_knobs(list(config))
    changes = {name: config[name] for name in _OVERRIDES if name in config}
    try:
        settings = TrainingConfig.model_validate(settings.model_dump() | changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"knob {first['loc'][0]}: {first['msg']}; got {first['input']!r}") from None
    rank = int(config["rank"])
    batch_size = min(int(config["batch_size"]), n_examples)
    n_seen = max(1, round(settings.epochs * n_examples))
    steps = math.ceil(n_seen / batch_size)
    return Plan(
        rank=rank,
        alpha=float(config["alpha"] if "alpha" in config else config["alpha_ratio"] * rank),
        dropout=float(config.get("dropout", 0.0)),
        learning_rate=float(config["learning_rate"]),
        batch_size=batch_size,
        n_examples=n_examples,
        n_seen=n_seen,
        steps=steps,
        warmup_steps=min(steps - 1, math.ceil(settings.warmup_fraction * steps)),
        settings=settings,
    )


def example_order(n_examples: int, n_seen: int, seed: int) -> npt.NDArray[np.int64]:
    """Which example is seen when, shape (n_seen,): one seeded permutation an epoch."""
    random = np.random.default_rng(seed)
    epochs = [random.permutation(n_examples) for _ in range(math.ceil(n_seen / n_examples))]
    return np.concatenate(epochs)[:n_seen].astype(np.int64)


# -- training ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One optimizer step: its number from 1, loss per token, learning rate, gradient norm before clipping."""

    number: int
    total: int
    loss: float
    learning_rate: float
    gradient_norm: float


Progress = Callable[[Step], None]


@dataclass(frozen=True)
class Trained:
    """A base model with its trained adapter attached, and how the training went.

    Attributes:
        model: the PEFT model.
        steps, tokens, seconds: of the loop; tokens without padding, wall-clock time.
        peak_memory: bytes in use at most during the loop, the base model included, as `meter.py` counts them;
            None where the device or the system does not tell.
        start: the adapter's tensors before training, kept for PiSSA alone.
    """

    model: Any
    steps: tuple[Step, ...]
    tokens: int
    seconds: float
    peak_memory: int | None
    start: Mapping[str, torch.Tensor] = field(default_factory=dict)


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
) -> Iterator[Trained]:
    """Trains an adapter, lends the adapted model to the `with` block, then takes the adapter off again.

    The same seed gives the same adapter, bit for bit, on a CPU with the same number of threads.

    Raises:
        ConfigError: see `plan_training`.
        TrainingFailed: the loss diverged or memory ran out.
        ModelError: the base model was not left as it was found.
    """
    plan = plan_training(config, settings, len(encoded))
    cuda = [base.device.index or 0] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        with _restored(base, plan.settings):
            failure = None
            try:
                model = _attach(base, plan)
                start = _adapter_state(model) if plan.settings.variant == "pissa" else {}
                trained = replace(_fit(base, model, encoded, plan, seed, progress), start=start)
            except RuntimeError as error:
                failure = out_of_memory(error)
                if failure is None:
                    raise
            if failure is not None:  # raised here, so that the old traceback no longer holds tensors
                raise TrainingFailed(failure)
            yield trained


def out_of_memory(error: BaseException) -> Failure | None:
    """The failure that an exception stands for, if it says that memory ran out."""
    text = str(error) or "no memory left"
    exhausted = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if not exhausted and not out_of_memory_text(text):
        return None
    return Failure(FailureKind.OUT_OF_MEMORY, text.splitlines()[0], traceback_tail(error))


def _fit(
    base: Base, model: Any, encoded: Encoded, plan: Plan, seed: int, progress: Progress | None
) -> Trained:
    began = time.perf_counter()
    meter = meter_of(base.device)
    if meter is not None:
        meter.restart()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=plan.learning_rate, weight_decay=plan.settings.weight_decay, fused=True
    )
    order = example_order(plan.n_examples, plan.n_seen, seed)
    steps: list[Step] = []
    model.train()
    for number in range(plan.steps):
        rate = plan.rate(number)
        optimizer.param_groups[0]["lr"] = rate
        chosen = order[number * plan.batch_size : (number + 1) * plan.batch_size]
        loss_sum = _accumulate(base, encoded, chosen, plan.settings.largest_micro_batch)
        norm = clip_grad_norm_(parameters, plan.settings.max_gradient_norm)
        loss, gradient_norm = torch.stack([loss_sum, norm.to(loss_sum)]).tolist()  # one synchronisation
        steps.append(Step(number + 1, plan.steps, loss, rate, gradient_norm))
        if progress is not None:
            progress(steps[-1])
        _check_divergence(steps, plan)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()
    return Trained(
        model=model,
        steps=tuple(steps),
        tokens=int(encoded.lengths[order].sum()),
        seconds=time.perf_counter() - began,
        peak_memory=None if meter is None else meter.peak(),
    )


def _accumulate(
    base: Base, encoded: Encoded, chosen: npt.NDArray[np.int64], micro_batch: int
) -> torch.Tensor:
    """Adds the gradient of the effective batch's mean loss per token; returns that loss, shape ()."""
    # Sequences of like length share a micro-batch: less padding, and the sum is the same in any order.
    by_length = chosen[np.argsort(-encoded.lengths[chosen], kind="stable")]
    n_tokens = int(encoded.counts[chosen].sum())
    total = torch.zeros((), device=base.device)
    for start in range(0, len(by_length), micro_batch):
        batch = collate(encoded, by_length[start : start + micro_batch], base)
        logits = counted_logits(base, batch)
        loss = cross_entropy(logits, batch.targets, reduction="sum") / n_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def _check_divergence(steps: Sequence[Step], plan: Plan) -> None:
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


def _diverged(step: Step, what: str) -> None:
    message = (
        f"diverged at step {step.number} of {step.total}: {what} (learning rate {step.learning_rate:.3g})"
    )
    raise TrainingFailed(Failure(FailureKind.DIVERGED, message))


# -- putting the adapter on and off ------------------------------------------------------------------


@contextmanager
def adapted(base: Base, plan: Plan) -> Iterator[Any]:
    """Lends the model with a new, untrained adapter to the `with` block."""
    with _restored(base, plan.settings):
        yield _attach(base, plan)


@contextmanager
def _restored(base: Base, settings: TrainingConfig) -> Iterator[None]:
    """Takes any adapter off at the end; then the base is as before, to the bit, or an error says so."""
    before = _structure(base.model)
    originals: dict[str, torch.Tensor] = {}
    if settings.variant == "pissa":  # it gives layers new weights, so the old ones are kept
        originals = {name: p.data for name, p in base.model.named_parameters()}
    try:
        yield
    finally:
        _detach(base.model)
        for name, weight in originals.items():
            base.model.get_parameter(name).data = weight
        if settings.gradient_checkpointing:
            _checkpointing(base.model, "disable")()
        base.model.eval()
        release(base.device)
        if _structure(base.model) != before or weights_fingerprint(base.model) != base.fingerprint:
            raise ModelError(
                f"the weights of {base.name} changed during a training, so later ones would not be "
                "comparable; start the command again"
            )


def _attach(base: Base, plan: Plan) -> Any:
    if plan.settings.gradient_checkpointing:
        _checkpointing(base.model, "enable")({"use_reentrant": False})
    with warnings.catch_warnings():  # PEFT 0.21 asks transformers 5.23 by an old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(base.model, _lora_config(plan))


def _checkpointing(model: Any, action: str) -> Callable[..., None]:
    """The method that switches recomputation of activations on or off; transformers is renaming it."""
    names = (f"activation_checkpointing_{action}", f"gradient_checkpointing_{action}")
    method: Callable[..., None] = getattr(model, next(name for name in names if hasattr(model, name)))
    return method


def _detach(model: Any) -> None:
    """Puts every adapted layer's own layer back, also where attaching stopped half-way.

    PEFT's `unload` needs the finished PEFT model, which an error on the way never gives.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    vars(model).pop("peft_config", None)


def _lora_config(plan: Plan) -> LoraConfig:
    settings = plan.settings
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=plan.rank,
        lora_alpha=int(plan.alpha) if plan.alpha.is_integer() else plan.alpha,
        lora_dropout=plan.dropout,
        target_modules=settings.targets if settings.targets == "all-linear" else list(settings.targets),
        use_rslora=settings.variant == "rslora",
        use_dora=settings.variant == "dora",
        init_lora_weights="pissa" if settings.variant == "pissa" else True,
    )


def _structure(model: torch.nn.Module) -> list[tuple[str, Any]]:
    """What an adapter could leave behind: modules and their types, parameters, extra attributes."""
    modules: list[tuple[str, Any]] = [(name, type(module)) for name, module in model.named_modules()]
    parameters = [(name, p.requires_grad) for name, p in model.named_parameters()]
    return [*modules, *parameters, ("peft_config", hasattr(model, "peft_config"))]


def _adapter_state(model: Any) -> dict[str, torch.Tensor]:
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
