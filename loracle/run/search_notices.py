"""What a user must see about the search before it begins: configs that were moved, merged or left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from loracle.config.knobs import KNOBS
from loracle.config.metrics.guard import guards_of_rows
from loracle.config.search.limits import is_default, least_trials, says_sizes
from loracle.config.settings import RunConfig
from loracle.config.training.plan import steps_of
from loracle.records.notices import Notice
from loracle.records.sizes import Sizes
from loracle.records.space import NUMERIC, SearchSpace, Value, number, same_value, with_alpha
from loracle.records.trial import History
from loracle.records.trial_files import why_trained_alone
from loracle.report.findings.beliefs import prior_knobs
from loracle.report.findings.search_cost import affordable, show_trainings
from loracle.report.folders import trial_folder
from loracle.report.wording import in_words, show_config, show_value
from loracle.search.observations import suspects
from loracle.search.presets import get_preset
from loracle.search.propose import seed_indices
from loracle.text.escape import printable
from loracle.training.memory.plan import MemoryModel, left_out

TOO_LARGE = "too_large"


_FEWEST = 3  # trials that compare anything
_FEW_STEPS = 20  # below this many optimizer steps a trial says little (fact 29: 100 and more are better)


def search_notices(
    config: RunConfig, space: SearchSpace, memory: MemoryModel | None, sizes: Sizes | None = None
) -> tuple[Notice, ...]:
    """All of them.

    Args:
        config: of the run.
        space: that is searched, for trials of the size that they have.
        memory: says what fits; None where that is not known.
        sizes: how many examples a trial and a final training have; None: the trainer is the user's own.
    """
    return (
        *_unused(config, space),
        *_beliefs(config, space),
        *_prior(config, space),
        *_fewer_candidates(config, space),
        *_few_trials(config, space, sizes),
        *_never_tried(space),
        *_moved(config, space),
        *_merged(space, sizes),
        *_few_steps(config, space, sizes),
        *about_memory(space, memory),
    )


def _unused(config: RunConfig, space: SearchSpace) -> Iterator[Notice]:
    """Settings that something else in the config leaves without effect."""
    reads, language = get_preset(config.search.preset).reads, config.language
    asked = [
        name
        for name, field in type(language).model_fields.items()
        if field.default != getattr(language, name)
    ]
    if asked and not reads and language.model != "none":
        text = f"language.{asked[0]} is not used: the preset {config.search.preset} reads no prompts"
        yield Notice("search", "unused_setting", text)
    if config.objectives and config.search.replicates not in ("auto", 0):
        text = "search.replicates is not used: of several objectives nothing is trained with further seeds"
        yield Notice("search", "unused_setting", text)
    if config.search.finalists > 1 and (config.objectives or config.objective is not None):
        why = "of several objectives" if config.objectives else "of a trainer of your own"
        text = f"search.finalists is not used: {why} the recommended settings alone are trained at the end"
        yield Notice("search", "unused_setting", text)
    if config.objective is not None:  # of the rest its own check says so
        if config.search.replicates not in ("auto", 0):
            text = "search.replicates is not used: a trainer of your own is not trained with further seeds"
            yield Notice("search", "unused_setting", text)
        return
    shared = config.training
    overridden = {
        name: getattr(shared, name)
        for name in space.names
        if KNOBS[name].is_setting and getattr(shared, name) != type(shared).model_fields[name].default
    }
    for name, value in overridden.items():
        tried = space[name].values
        if value is not None and (value,) != tried:
            shown = f"{show_value(tried[0])}{f' to {show_value(tried[-1])}' if len(tried) > 1 else ''}"
            if space[name].named:
                shown = ", ".join(map(show_value, tried))
            text = f"training.{name}: {show_value(value)} is not used, as the space has {name} ({shown})"
            yield Notice("search", "unused_setting", text)
    for place, settings in (
        ("scoring", config.scoring),
        *((f"guard.{n}", g) for n, g in guards_of_rows(config.guard).items()),
    ):
        for name, belongs in settings.unused():
            yield Notice("search", "unused_setting", f"{place}.{name} is not used: it belongs to {belongs}")


def _beliefs(config: RunConfig, space: SearchSpace) -> Iterator[Notice]:
    """Beliefs that make no difference between candidates, or little."""
    for text in config.beliefs.said.remarks(space):
        yield Notice("search", "belief_of_no_use", text)


def _prior(config: RunConfig, space: SearchSpace) -> Iterator[Notice]:
    """A prior that knows no knob: who calls a learning rate so has a search that knows more."""
    knobs = prior_knobs(space)
    if get_preset(config.search.preset).informed and knobs.silent:
        source = "trials and your beliefs" if config.beliefs.said else "trials alone"
        text = (
            f"what is known of LoRA says nothing of {printable(in_words(knobs.unknown))}, so the search "
            f"learns from {source}; a knob that is one of {in_words(NUMERIC)} may have that name"
        )
        yield Notice("search", "unknown_to_prior", text, len(knobs.unknown))


def _fewer_candidates(config: RunConfig, space: SearchSpace) -> Iterator[Notice]:
    n, budget = len(space.candidates), config.search.trials
    if n < budget and not is_default(config.search):  # by which there are fewer anyway
        some = "1 candidate, so there is 1 trial" if n == 1 else f"{n} candidates, so there are {n} trials"
        text = f"the space has {some} and not the {budget} of search.trials; each candidate is tried once"
        yield Notice("search", "fewer_candidates", text, n)


def _few_trials(config: RunConfig, space: SearchSpace, sizes: Sizes | None) -> Iterator[Notice]:
    """A budget that is enough for fewer trials than compare anything, or than the user has named."""
    search = config.search
    if search.budget is None or sizes is None or not sizes.expected:
        return
    most, default = min(search.trials, len(space.candidates)), is_default(search)
    enough = affordable(search.budget, sizes.expected, 0)
    there = min(most, max(enough, least_trials(search)))
    what = f"{show_trainings(search.budget)} (search.budget{', the default' if default else ''})"
    if enough < min(_FEWEST, most):
        text = f"a trial costs about {show_trainings(sizes.expected)}, "
        text += f"so {what} is enough for {enough}" if enough else f"more than {what}"
        if there > enough:
            cost = show_trainings(there * sizes.expected)
            text += f"; {'1 is' if there == 1 else f'{there} are'} made all the same, for about {cost}"
        smaller = ", or for smaller trials data.proxy, data.proxy_minimum and data.validation_limit"
        text += f". For more, set search.budget or search.trials{smaller if says_sizes(config.data) else ''}"
        yield Notice("search", "few_trials", text, enough)
    named = len(search.seed_configs or ())
    if named > there:
        text = (
            f"about {there} of {named} search.seed_configs are tried within {what}; set search.trials or more"
        )
        yield Notice("search", "seed_configs_left_out", text, named - there)


def _never_tried(space: SearchSpace) -> Iterator[Notice]:
    """Values that no candidate has, as the constraints forbid all that have them."""
    values = space.values(space.candidates)
    for knob in space.knobs:
        present = set(np.unique(values[knob.name]).tolist())
        merged = space.batch_limit if knob.name == "batch_size" else None  # these are told by `_merged`
        gone = [
            value
            for value, stands_for in zip(knob.values, knob.numbers.tolist(), strict=True)
            if stands_for not in present and (merged is None or stands_for <= merged)
        ]
        if gone:
            which, rules = ", ".join(map(show_value, gone)), "; ".join(space.constraints)
            text = (
                f"{knob.name} {printable(which)}: never tried, as no candidate with it satisfies the "
                f"constraints ({printable(rules)}); change space.constraints, or leave it out"
            )
            yield Notice("search", "values_never_tried", text, len(gone))


def _few_steps(config: RunConfig, space: SearchSpace, sizes: Sizes | None) -> Iterator[Notice]:
    """Batches that take few steps in a trial: at equal epochs small batches take many more, and look better
    for it than they are where the final training has steps enough for all."""
    if sizes is None or "batch_size" not in space.names or sizes.proxy == sizes.train:
        return  # where a trial sees all data, it takes the steps of the final training
    values = space.values(space.candidates)
    epochs = values.get("epochs", [config.training.epochs] * len(values["batch_size"]))
    share = sizes.proxy / sizes.train
    steps = {
        (min(b, sizes.trial_rows), e): steps_of(config.training, sizes.trial_rows, b, share, epochs=e)
        for b, e in set(zip(values["batch_size"], epochs, strict=True))
    }
    few = sorted({b for (b, _), n in steps.items() if n < _FEW_STEPS})
    if not few:
        return
    if config.training.max_steps is not None:
        text = (
            f"a trial takes {min(steps.values())} optimizer steps, its share of training.max_steps, which "
            f"says little about longer trainings; {_for_larger_trials(sizes)} or training.max_steps"
        )
        yield Notice("search", "few_steps", text)
        return
    least, most = min(steps, key=lambda one: steps[one]), max(steps, key=lambda one: steps[one])
    ends = ", ".join(dict.fromkeys(f"{steps[one]} at {one[0]:g}" for one in (least, most)))
    text = (
        f"batch_size {', '.join(f'{b:g}' for b in few)}: fewer than {_FEW_STEPS} optimizer steps in a trial "
        f"({ends}), so trials may rank small batches too high; {_for_larger_trials(sizes)}, set "
        "training.max_steps, or leave large batches out"
    )
    yield Notice("search", "few_steps", text, len(few))


def _moved(config: RunConfig, space: SearchSpace) -> Iterator[Notice]:
    """Configs that the user wants to be tried and that the space does not hold."""
    given = config.search.seed_configs
    if given is None:
        reads_standard = get_preset(config.search.preset).seed_configs
        if config.standard is None or not reads_standard or _holds(space, config.standard):
            return
        nearest = space.config(seed_indices(space, [config.standard])[0])
        text = (
            "the standard settings are no candidate of the space, so the nearest one is tried first: "
            f"{show_config(nearest)}. At the end, they are trained as they are"
        )
        yield Notice("search", "standard_not_in_space", text)
        return
    missing = [seed for seed in given if not _holds(space, seed)]
    if missing:
        nearest = space.config(space.nearest(missing[0]))
        text = (
            f"{len(missing)} of {len(given)} search.seed_configs are no candidates of the space, so the "
            f"nearest are tried: {show_config(nearest)} in the place of {show_config(with_alpha(missing[0]))}"
        )
        yield Notice("search", "seed_configs_moved", text, len(missing))


def _holds(space: SearchSpace, config: Mapping[str, Value]) -> bool:
    """Whether a candidate has all values of the config, in the knobs that the space has."""
    full, nearest = with_alpha(config), space.config(seed_indices(space, [config])[0])
    return all(same_value(full[name], nearest[name]) for name in space.names if name in full)


def _for_larger_trials(sizes: Sizes | None) -> str:
    """What makes trials larger."""
    limited = sizes is not None and sizes.trial_cost is not None
    return "raise data.trial_cost" if limited else "raise data.proxy or data.proxy_minimum"


def _merged(space: SearchSpace, sizes: Sizes | None) -> Iterator[Notice]:
    """Batches larger than a trial's data: in a trial they train alike."""
    limit = space.batch_limit
    if limit is None or "batch_size" not in space.names:
        return
    values = space["batch_size"].values
    larger = [value for value in values if number(value) > limit]
    if larger:
        which, n = ", ".join(map(show_value, larger)), len(values)
        unit = "examples" if sizes is None or sizes.blocks is None else "blocks"
        whole = sizes is not None and sizes.proxy == sizes.train
        larger_trials = "" if whole else f"{_for_larger_trials(sizes)}, or "
        text = (
            f"{len(larger)} of {n} values of batch_size ({which}) are more than the {limit:,} {unit} of "
            f"a trial, where they train like a batch of all; {larger_trials}leave them out"
        )
        yield Notice("search", "batches_merged", text, len(larger))


def crash_notices(space: SearchSpace, history: History) -> dict[str, Notice]:
    """Values with which every trial crashed, by what is the same while more trials crash."""
    found = {}
    for suspect in suspects(space, history):
        text = suspect.said(printable(show_config(suspect.values)))
        found[str(suspect.key)] = Notice("search", "values_that_crash", text, len(suspect.trials))
    return found


def alone_notices(history: History, folder: Path) -> Iterator[Notice]:
    """Trials that were to train together, and trained alone; why, as far as the run's folder says."""
    trials = [trial for trial in history.counted if trial.together and trial.outcome]
    alone = [trial for trial in trials if trial.outcome and "together" not in trial.outcome.metrics]
    if alone:
        many = "1 trial" if len(trials) == 1 else f"{len(alone)} of {len(trials)} trials"
        was = "was" if len(trials) == 1 else "were"
        counts = Counter(why_trained_alone(trial_folder(folder, trial.number)) for trial in alone)
        told = [f"{n} as {printable(why)}" for why, n in counts.most_common() if why]
        why = f": {', '.join(told)}" if told else ""
        text = f"{many} that {was} to train together trained alone, which takes longer{why}"
        yield Notice("search", "trained_alone", text, len(alone))


def about_memory(space: SearchSpace, memory: MemoryModel | None) -> Iterator[Notice]:
    """What is left out for want of memory; `memory` is None where that is not known."""
    found = None if memory is None else left_out(memory, space)
    if found is not None:
        yield Notice("search", TOO_LARGE, found[1], found[0])
