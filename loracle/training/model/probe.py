"""One probe at load: what a run's adapters need of the model, tried once, before anything costs money.

With the run's own variant, targets, dropout and gradient checkpointing, and a few tokens of its data: how the
model treats a batch, whether PEFT can adapt it, which adapted modules see a gradient, whether the adapter
comes off without a trace, and whether plain PEFT reads what was saved. What fails is one line. What is left
out or stays frozen is a notice.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from loracle.config.training.plan import Plan, plan_training
from loracle.config.training.settings import TrainingConfig
from loracle.config.training.variants import PLAIN, VARIANTS, tried_with
from loracle.errors import ConfigError, LoracleError, ModelError
from loracle.records.failures import one_line, refuse_no_memory
from loracle.records.notices import Notice
from loracle.training.model.adapter import (
    AdapterRefused,
    Layer,
    adapter_start,
    attach,
    layers_of,
    listed,
    reloaded,
    restored,
    save_adapter,
)
from loracle.training.model.base_model import Base, forked_random
from loracle.training.model.batching import Tokens, observed
from loracle.training.model.dropout import Masks, key_dropout, training_mode
from loracle.training.model.module_tree import ModuleTree
from loracle.training.model.output.loss import add_gradient
from loracle.training.model.probe_notices import patterns, probe_notices
from loracle.training.model.saved_adapter import SavedCheck, two_sequences
from loracle.training.model.targets import linear_modules

_SPREAD = 0.05  # of the random weights that make an untrained adapter act


@dataclass(frozen=True)
class Probed:
    """What the probe found.

    Attributes:
        base: with `reading`, `writing`, `continuing` and `packing` as the model allows them.
        settings: with `targets` as they are adapted, where some had to be left out.
        dropout: whether the adapters can have dropout; those of weights that belong to no module cannot.
        notices: what the user must see.
        adapted: names of what has an adapter.
    """

    base: Base
    settings: TrainingConfig
    dropout: bool
    notices: tuple[Notice, ...]
    adapted: tuple[str, ...]


def probe(
    base: Base,
    settings: TrainingConfig,
    tokens: Tokens,
    *,
    dropout: float,
    writes: bool,
    chooses: bool = False,
    packs: bool = False,
) -> Probed:
    """Tries a run's adapters on its model, which is left as it was. No copy of the model is made.

    Args:
        settings: of the run.
        tokens: some of the run's, one after the other.
        dropout: the largest that a trial may have.
        writes, chooses: whether scoring generates text, or compares choices.
        packs: whether rows of several examples are trained on.

    Raises:
        ConfigError: PEFT or the model refuses the adapters, or no gradient reaches any.
        ModelError: see `batching.observed`; or a saved adapter is not read back as it was.
    """
    with forked_random(base.device), restored(base) as tree:
        torch.manual_seed(0)
        base = observed(base, tokens, writes=writes, chooses=chooses, packs=packs)
        tree.restore()  # of states that recurrent models keep
        whole = settings.targets == "all-linear"
        settings, left_out = _resolved(base, settings, tree)
        step = _Step(base, tokens, dropout)
        settings, found, failing = _adaptable(step, settings, tree)
        left_out |= failing
        unused = _never_used(found)
        if unused:
            left_out |= dict.fromkeys(unused, "no text reaches them")
            kept = [layer.name for layer in found.layers if layer.name not in unused]
            settings = settings.model_copy(update={"targets": kept})
        settings, unread = _readable(base, settings, tokens, tree, whole)
        left_out |= unread
    unseen = [name for name in found.unseen if name not in unused]
    notices = probe_notices(base, left_out, unseen, found.layers, found.ran, settings.modules_to_save)
    adapted = tuple(layer.name for layer in found.layers if layer.name not in left_out)
    return Probed(base, settings, not any(layer.is_weight for layer in found.layers), notices, adapted)


# -- which modules ----------------------------------------------------------------------------------


def _plan(settings: TrainingConfig, dropout: float = 0.0) -> Plan:
    knobs = {"rank": 1, "alpha": 1, "dropout": dropout, "batch_size": 1, "learning_rate": 1.0}
    return plan_training(knobs, settings, 1)


def _resolved(
    base: Base, settings: TrainingConfig, tree: ModuleTree
) -> tuple[TrainingConfig, dict[str, str]]:
    """Settings whose `all-linear` means linear modules alone, and the modules left out with their reasons.

    PEFT takes the names of some for the experts of models whose experts were linear modules in older files.
    Experts are many times the rest, and PEFT trains them without dropout.
    """
    if settings.targets != "all-linear":
        return settings, {}
    names = linear_modules(base.model)
    if not names:
        raise ConfigError(
            f"training.targets: {base.name} has no linear modules for all-linear; name what to adapt"
        )
    plain = settings.model_copy(update={"variant": PLAIN, "gradient_checkpointing": False})
    try:
        layers = layers_of(attach(base, _plan(plain)))
    except ConfigError:  # `_adaptable` finds out which modules it is about
        return settings, {}
    finally:
        tree.restore()
    if not any(layer.is_weight for layer in layers):
        return settings, {}
    kept = [layer.name for layer in layers if not layer.is_weight]
    reason = "PEFT takes their names for those of the experts"
    left_out = dict.fromkeys((name for name in names if name not in kept), reason)
    return settings.model_copy(update={"targets": kept}), left_out


@dataclass(frozen=True)
class _Found:
    """What one step showed: the adapted places of a model, and the names of those without a gradient."""

    layers: list[Layer]
    unseen: list[str]
    ran: set[int]  # ids of the modules that computed something


def _adaptable(
    step: _Step, settings: TrainingConfig, tree: ModuleTree
) -> tuple[TrainingConfig, _Found, dict[str, str]]:
    """One step with the settings; where it fails and they said `all-linear`, with the modules that work.

    Modules are tried by the last part of their names. Some only look linear: Llama 4's routers give two
    results, PEFT refuses `out_proj` of Mamba, and dropout cannot tell which tokens went to an expert.
    """
    base = step.base
    try:
        return settings, step.take(settings), {}
    except LoracleError as error:
        tree.restore()
        names = linear_modules(base.model)
        chosen = names if settings.targets == "all-linear" else list(settings.targets)
        if not set(chosen) <= set(names):  # named by the user
            raise
        whole = error
    finally:
        tree.restore()
    failing: dict[str, str] = {}
    for leaf in dict.fromkeys(name.rpartition(".")[2] for name in chosen):
        own = [name for name in chosen if name.rpartition(".")[2] == leaf]
        try:
            step.take(settings.model_copy(update={"targets": own}))
        except _NoGradient:
            pass  # the step with all the others will show these as unseen
        except AdapterRefused as error:
            failing |= dict.fromkeys(own, f"a step of training fails with one ({_sentence(error.reason)})")
        except LoracleError as error:
            failing |= dict.fromkeys(own, f"a step of training fails with one ({_sentence(str(error))})")
        finally:
            tree.restore()
    if len(failing) in (0, len(chosen)):
        raise whole
    settings = settings.model_copy(update={"targets": [name for name in chosen if name not in failing]})
    try:
        return settings, step.take(settings), failing
    finally:
        tree.restore()


def _sentence(text: str) -> str:
    """The first sentence; what follows may differ from one process to the next."""
    return text.partition(". ")[0]


class _NoGradient(ConfigError):
    """Adapters that nothing depends on."""


@dataclass(frozen=True)
class _Step:
    """One forward and backward pass as training has them."""

    base: Base
    tokens: Tokens
    dropout: float

    def take(self, settings: TrainingConfig) -> _Found:
        """Takes the step; the adapter stays on.

        Raises:
            ConfigError: it fails, or no gradient reaches any adapter.
            ModelError: there is no memory for it.
        """
        settings = settings.model_copy(update={"variant": tried_with(settings.variant)})
        base, batch = self.base, two_sequences(self.base, self.tokens)
        ran: set[int] = set()
        hook = register_module_forward_pre_hook(lambda module, _: ran.add(id(module)))
        try:
            model = attach(base, _plan(settings, self.dropout))
            masks = Masks(0, base.device)
            key_dropout(base.model, masks, kept_logits=base.counted_alone)
            with training_mode(model), masks.of(0, range(2), batch.inputs.shape[1], batch.keep):
                add_gradient(base, batch, masks, len(batch.targets))
        except LoracleError:
            raise
        except Exception as error:  # of any kind: it is the model's own code, with adapters in it
            problem = f"leaves no memory on {base.device} for training on one short example"
            refuse_no_memory(error, f"model: {base.name} {problem}")
            checkpointing = str(settings.gradient_checkpointing).lower()
            raise AdapterRefused(
                f"training: a step with variant {settings.variant}, targets {listed(settings.targets)}, "
                f"dropout {self.dropout:g}, gradient_checkpointing {checkpointing} fails on {base.name}",
                one_line(error),
            ) from None
        finally:
            hook.remove()
        layers = layers_of(model)
        unseen = [layer.name for layer in layers if not _has_gradient(layer)]
        if len(unseen) == len(layers):
            raise _NoGradient(
                f"training.targets: no gradient reaches any of the {len(layers)} adapted modules of "
                f"{base.name} ({patterns(unseen)}); name others"
            )
        return _Found(layers, unseen, ran)


def _has_gradient(layer: Layer) -> bool:
    gradients = [p.grad for p in layer.trained()]
    return any(g is not None and bool(g.ne(0).any()) for g in gradients)


def _never_used(found: _Found) -> list[str]:
    """Those without a gradient that no text can reach, as a vision tower's.

    What belongs to a layer that text goes through is not among them: a few tokens go to few experts, and some
    modules begin to work on longer texts.
    """
    seen = {layer.name for layer in found.layers} - set(found.unseen)
    layers = {".".join(parts[: n + 1]) for parts in map(_split, seen) for n in _numbers(parts)}
    return [
        name
        for name in found.unseen
        if layers.isdisjoint(".".join(_split(name)[: n + 1]) for n in _numbers(_split(name)))
    ]


def _split(name: str) -> list[str]:
    return name.split(".")


def _numbers(parts: list[str]) -> list[int]:
    """Where a name has the number of an element of a list, such as a layer."""
    return [n for n, part in enumerate(parts) if part.isdigit()]


# -- saving -----------------------------------------------------------------------------------------


def _readable(
    base: Base, settings: TrainingConfig, tokens: Tokens, tree: ModuleTree, all_linear: bool
) -> tuple[TrainingConfig, dict[str, str]]:
    """Settings whose adapter plain PEFT reads back as it was saved, and the modules left out for it.

    PEFT renames what it reads as it renames old files of a model, and may lose modules over it.

    Raises:
        ModelError: PEFT reads something else.
    """
    if VARIANTS[settings.variant].start_from_weights:  # of every adapted one: one of the smallest is tried
        plain = settings.model_copy(update={"variant": tried_with(settings.variant)})
        layers = layers_of(attach(base, _plan(plain)))
        smallest = min(layers, key=lambda layer: layer.weight.numel())
        tree.restore()
        _check_saving(base, settings.model_copy(update={"targets": [smallest.name]}), tokens, tree)
        plain, left_out = _readable(base, plain, tokens, tree, all_linear)
        return settings.model_copy(update={"targets": plain.targets}), left_out
    lost = _check_saving(base, settings, tokens, tree)
    if not lost:
        return settings, {}
    kept = [name for name in linear_modules(base.model) if name not in lost]
    if settings.targets != "all-linear":
        kept = [name for name in settings.targets if name not in lost]
    if not all_linear or not kept:
        raise ModelError(
            f"training.targets: PEFT does not read back what it saved of {len(lost)} modules of {base.name} "
            f"({patterns(lost)}); leave them out"
        )
    settings = settings.model_copy(update={"targets": kept})
    if still := _check_saving(base, settings, tokens, tree):
        raise ModelError(f"model: PEFT does not read back what it saved of {base.name} ({patterns(still)})")
    return settings, dict.fromkeys(lost, "PEFT does not read them back from a saved adapter")


def _check_saving(base: Base, settings: TrainingConfig, tokens: Tokens, tree: ModuleTree) -> list[str]:
    """Saves an adapter that acts, reads it back with plain PEFT, compares both; the modules lost."""
    plain = settings.model_copy(update={"gradient_checkpointing": False})
    check = SavedCheck(base, tokens)
    model = attach(base, _plan(plain))
    start = adapter_start(model, settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(_SPREAD * torch.randn_like(parameter))
    check.trained()
    with tempfile.TemporaryDirectory(prefix="loracle-") as folder:
        save_adapter(model, start, Path(folder))
        before = {} if start else {layer.name: list(layer.trained()) for layer in layers_of(model)}
        tree.restore()
        with reloaded(base, Path(folder)) as again:
            after = {layer.name: list(layer.trained()) for layer in layers_of(again)}
        lost = [name for name, tensors in before.items() if not _equal(tensors, after.get(name, []))]
        if not lost:
            check.saved(Path(folder))
    return lost


def _equal(some: list[torch.nn.Parameter], others: list[torch.nn.Parameter]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))
