"""Trials that are trained together: each with its own files, log, score and failure, as if it were alone.

What cannot share a forward pass, or does not fit into memory together, is trained alone, and its
`provenance.json` says why. Scoring is one adapter after another.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from loracle.config.knobs import ADAPTER, without_adapter
from loracle.config.training.optimizers import ADAMW
from loracle.config.training.plan import plan_training
from loracle.records.codec import json_text
from loracle.records.curves.recorder import CurveRecorder
from loracle.records.notices import Notice
from loracle.records.space import Value
from loracle.records.trial import Outcome
from loracle.text.escape import printable
from loracle.text.files import write_atomically
from loracle.training.dataset.tokens import Encoded
from loracle.training.loop import Step, TrainingFailed
from loracle.training.memory.measurement import release
from loracle.training.model.base_model import Base
from loracle.training.packed.conditions import VARIANTS, why_alone
from loracle.training.packed.linear import NotPacked
from loracle.training.packed.loop import PackedResult, lent, train_packed
from loracle.training.packed.width import WIDTHS, Width, measured_width
from loracle.training.trial import (
    Result,
    TrialLog,
    TrialPlan,
    attempted,
    outcome_of,
    release_after,
    run_trial,
    score_trained,
)

BLOCKS = "data.packing makes blocks of several examples"
_MEMORY = "they do not fit into memory together"


@dataclass(frozen=True)
class Member:
    """A trial of a group.

    Attributes:
        plan: of it.
        provenance: what is kept of how it came about.
        wanted: whether it is asked for; else it only takes its part in the forward pass.
    """

    plan: TrialPlan
    provenance: Mapping[str, Any]
    wanted: bool = True


def run_together(members: Sequence[Member]) -> dict[int, Outcome]:
    """Runs the trials of a group, all on the same examples with the same seed; outcomes of those wanted, by
    their place among the members.

    Raises:
        LoracleError: as `run_trial`.
    """
    outcomes: dict[int, Outcome] = {}
    for pack in _packs([member.plan for member in members]):
        wanted = [i for i in pack.members if members[i].wanted]
        if not wanted:
            continue
        reason = pack.alone
        if reason is None:
            found = _run_pack({i: members[i] for i in pack.members}, pack.micro_batch)
            if isinstance(found, dict):
                outcomes |= found
                continue
            reason = found
        for i in wanted:
            plan = members[i].plan
            outcomes[i] = run_trial(plan, {**members[i].provenance, "together": 1, "alone": reason})
    return outcomes


# -- what can be trained together -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Pack:
    """Places of trials in their group, that are trained together, in micro-batches of so many examples each;
    or why each of them is trained alone."""

    members: tuple[int, ...]
    micro_batch: int = 1
    alone: str | None = None


def _packs(plans: Sequence[TrialPlan]) -> Iterator[_Pack]:
    """Plans of like settings, as many at once as fit into memory."""
    left = list(range(len(plans)))
    while left:
        first = plans[left[0]]
        alike = [i for i in left if plans[i].training == first.training]
        left = [i for i in left if i not in alike]
        reasons = {i: why_not_together(first.base, first.train, plans[i]) for i in alike}
        able = [i for i, reason in reasons.items() if reason is None]
        yield from (_Pack((i,), alone=reason) for i, reason in reasons.items() if reason is not None)
        if len(able) == 1:
            yield _Pack((able[0],), alone="no other of its group has its settings")
        elif able:
            yield from _fitting(plans, able)


def _fitting(plans: Sequence[TrialPlan], alike: Sequence[int]) -> Iterator[_Pack]:
    """All of them at once where they fit, else each half of them."""
    memory = plans[alike[0]].memory
    micro_batch = memory.micro_batch_of_all([plans[i].config for i in alike])
    if len(alike) == 1:
        yield _Pack(tuple(alike), alone=_MEMORY)
    elif micro_batch is not None:
        yield _Pack(tuple(alike), micro_batch)
    else:
        middle = len(alike) // 2
        yield from _fitting(plans, alike[:middle])
        yield from _fitting(plans, alike[middle:])


def why_not_together(base: Base, train: Encoded, plan: TrialPlan) -> str | None:
    """Why a trial has to be trained alone, as far as its settings and the model say; None: it need not."""
    if train.parts is not None:
        return BLOCKS
    if plan.group.size > 1:
        return "several processes share each trial"
    config = without_adapter(plan.config)
    return why_alone(base, plan_training(config, plan.training, len(train), plan.share))


# -- a pack ---------------------------------------------------------------------------------------------


def _run_pack(members: Mapping[int, Member], micro_batch: int) -> dict[int, Outcome] | str:
    """Outcomes of the wanted ones; or why they have to be trained alone."""
    began = time.perf_counter()
    wanted = [i for i, member in members.items() if member.wanted]
    plans = {i: replace(member.plan, micro_batch=micro_batch) for i, member in members.items()}
    curves = {i: CurveRecorder() for i in wanted}
    with ExitStack() as stack:
        logs: dict[int, TrialLog] = {}
        for i in wanted:
            plans[i].folder.mkdir(parents=True, exist_ok=True)
            told = json_text({**members[i].provenance, "together": len(members)})
            write_atomically(plans[i].folder / "provenance.json", told)
            logs[i] = stack.enter_context(TrialLog(plans[i], curves[i]))
        results = _train(plans, logs)
        if isinstance(results, str):
            return results
        share = (time.perf_counter() - began) / len(wanted)
        outcomes = {}
        for i in wanted:
            began = time.perf_counter()
            scored = attempted(plans[i], lambda i=i: _scored(plans[i], results[i], logs[i]))  # type: ignore[misc]
            seconds = share + time.perf_counter() - began
            metrics = {"together": float(len(members))}
            if results[i].peak_memory is not None:
                metrics["peak_memory_bytes"] = float(results[i].peak_memory or 0)  # of all of them
            outcomes[i] = outcome_of(plans[i], scored, curves[i], seconds, metrics)
            release_after(plans[i])
    return outcomes


def _train(plans: Mapping[int, TrialPlan], logs: Mapping[int, TrialLog]) -> dict[int, PackedResult] | str:
    """What came of each; or why they have to be trained alone. What goes wrong in one of them may end all,
    and alone it can be blamed."""
    places = list(plans)
    first = plans[places[0]]
    settings = first.training.model_copy(update={"micro_batch": first.micro_batch})

    def told(place: int, step: Step) -> None:
        if log := logs.get(places[place]):
            log.step(step)

    def train() -> list[PackedResult] | str:
        configs = [without_adapter(plan.config) for plan in plans.values()]
        try:
            return train_packed(
                first.base, first.train, configs, settings, seed=first.seed, progress=told, share=first.share
            )
        except NotPacked as error:
            return str(error)

    found = attempted(first, train)
    if isinstance(found, list):
        return dict(zip(places, found, strict=True))
    release(first.base.device)  # here, where no error holds tensors
    return f"together they failed: {printable(found if isinstance(found, str) else found.message)}"


def _scored(plan: TrialPlan, result: PackedResult, log: TrialLog) -> Result:
    """Scores one of them. Its peak is not known, as that is of all."""
    with lent(plan.base, result) as trained:
        return score_trained(plan, replace(trained, peak_memory=None), log)


# -- how many -------------------------------------------------------------------------------------------


def width_that_pays(plan: TrialPlan, most: int, ranks: Sequence[Value] = ()) -> Width:
    """How many configs like this one, with `ranks` from the least to the largest, to train together, at most;
    measured in a few seconds of training."""
    if reason := why_not_together(plan.base, plan.train, plan):
        return Width(1, reason=reason)
    sizes = {
        width: plan.memory.micro_batch_of_all([plan.config] * width) for width in WIDTHS if width <= most
    }
    fitting = {1: plan.micro_batch} | {width: size for width, size in sizes.items() if size is not None}
    widths = list(fitting)[1:]
    if not widths:
        return Width(1, reason=_MEMORY if sizes else None)
    config = without_adapter(plan.config)
    parts = np.linspace(0, len(ranks) - 1, 4).round().astype(int)[[3, 0, 2, 1]] if ranks else ()
    mixed = [ranks[part] for part in parts]  # any two of these are far apart
    return measured_width(plan.base, plan.train, config, plan.training, widths, fitting, mixed)


def why_never_together(plan: TrialPlan) -> str | None:
    """Why no trials like this one can be trained together on this model; None: they can. Tried with a step
    of two."""
    if reason := why_not_together(plan.base, plan.train, plan):
        return reason
    settings = plan.training.model_copy(
        update={"micro_batch": 1, "epochs": 1.0, "max_steps": None, "divergence_factor": 1e9}
    )
    configs = [{**without_adapter(plan.config), "batch_size": 1}] * 2
    try:
        train_packed(plan.base, plan.train.select([0]), configs, settings, seed=0)
    except NotPacked as error:
        return str(error)
    except TrainingFailed:
        return _MEMORY
    return None


def width_told(
    wanted: int | Literal["auto"],
    plan: TrialPlan,
    most: int,
    *,
    begun: bool,
    knobs: Mapping[str, Sequence[Value]] = MappingProxyType({}),
) -> tuple[int | None, tuple[Notice, ...]]:
    """How many trials like this one to train at once, where that is found out here: 1 if they cannot be, and
    as many as pay if that is to be measured. And what is to say of it.

    Args:
        wanted: `execution.trials_together`.
        plan: of the standard settings.
        most: trials of the run.
        begun: whether it was begun before, and so knows its width.
        knobs: values of the space by their knobs, from the least to the largest; none: as the plan has them.
    """
    apart = tuple(about_apart(knobs))
    if wanted == "auto":
        if begun:
            return None, ()
        width = width_that_pays(plan, most, knobs.get("rank", ()))
        return width.configs, (_about(width), *(apart if width.configs > 1 else ()))
    if wanted == 1:
        return None, ()
    reason = why_never_together(plan)
    if reason is None:
        text = f"up to {wanted} trials train together, in one forward pass (execution.trials_together)"
        return None, (Notice("search", "trials_together", text, wanted), *apart)
    text = f"execution.trials_together: {wanted}: trials train one at a time: {printable(reason)}"
    return 1, (Notice("search", "trials_alone", text),)


def about_apart(knobs: Mapping[str, Sequence[Value]]) -> Iterator[Notice]:
    """Which trials of a group do not train together, as the values of the space say, by their knobs."""
    taken = {"variant": VARIANTS, "optimizer": (ADAMW,), "lora_plus_ratio": (1,)}
    alone = [
        f"{name} {value}"
        for name, fine in taken.items()
        for value in knobs.get(name, ())
        if value not in fine
    ]
    like = [
        name for name in ADAPTER if sum(f"{name} {value}" not in alone for value in knobs.get(name, ())) > 1
    ]
    said = [f"only trials with the same {' and '.join(like)} train together"] if like else []
    said += [f"trials with {' or '.join(alone)} train alone"] if alone else []
    if said:
        text = f"execution.trials_together: {printable('; '.join(said))}, which takes longer"
        yield Notice("search", "trials_apart", text)


def _about(width: Width) -> Notice:
    """What the user must see of a width that was measured."""
    if width.configs == 1:
        why = width.reason or "measured as this run begins, that is as fast"
        return Notice("search", "trials_alone", f"trials train one at a time: {printable(why)}")
    text = (
        f"up to {width.configs} trials train together, in one forward pass: measured as this run begins, "
        f"that is {width.gains[width.configs]:.1f} times as fast"
    )
    return Notice("search", "trials_together", text, width.configs)
