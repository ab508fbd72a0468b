"""Checks of everything a run needs, before anything costs money. Nothing is written, and nothing is trained
but for a few steps that tell how long a run takes."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from loracle.config.placeholders import split_command
from loracle.config.settings import NO_DATA, RunConfig
from loracle.errors import LoracleError, StudyError
from loracle.execution.devices import threads_each
from loracle.language.reader import load_language_model
from loracle.own_trainer.objective import ExternalObjective
from loracle.records.events import Expected
from loracle.records.notices import About, Notice
from loracle.records.objective import Report
from loracle.records.space import SearchSpace, with_alpha
from loracle.records.trial import Trial
from loracle.records.trial_files import stored_outcomes
from loracle.report.time_left import Forecast, forecast, in_words
from loracle.report.verdict.stored import FILE as FINISHED
from loracle.report.wording import search_ends
from loracle.run.folder import as_begun, require_own, require_recorded
from loracle.run.past.candidates import read_past
from loracle.run.reading import run_prompt
from loracle.run.search import Search, check_values, prior_contents, run_preset, search_space
from loracle.run.search_notices import search_notices
from loracle.search.presets import get_preset
from loracle.text.escape import printable
from loracle.text.quantities import show_bytes, show_count
from loracle.training.memory.plan import allowed, describe
from loracle.training.model.base_model import Base
from loracle.training.model.probe_notices import patterns
from loracle.training.objective import TrainingObjective


@dataclass(frozen=True)
class Check:
    """One finding: `ok`, `note` (worth reading) or `bad` (the run would fail).

    `notice`: where the finding is one that `tune` and the report show, too. `expected`: how long the run
    takes, in numbers.
    """

    name: str
    state: Literal["ok", "note", "bad"]
    text: str
    notice: Notice | None = None
    expected: Expected | None = None


def examine(config: RunConfig) -> Iterator[Check]:
    """Checks device, data, model, space, prompts, memory, time and output, in that order.

    What cannot be used ends the examination with a `bad` check; no exception is raised for bad input.
    """
    with contextlib.suppress(StudyError):  # of which the last check tells
        config = as_begun(config)
    if config.objective is not None:
        yield from _own_trainer(config)
        return
    yield Check("device", "ok", _device(config))
    try:
        check_values(config)
        with contextlib.closing(TrainingObjective.from_config(config)) as objective:
            yield from _built_in(config, objective)
    except LoracleError as error:
        yield Check("input", "bad", str(error))
        return
    yield _output(config)


def _built_in(config: RunConfig, objective: TrainingObjective) -> Iterator[Check]:
    """What the built-in trainer finds out of data and model."""
    yield from _data(objective)
    yield from _noticed(objective.notices, "data")
    yield Check("model", "ok", _model(objective.base, config))
    yield Check("targets", "ok", _targets(objective))
    yield from _noticed(objective.notices, "model")
    yield from _noticed(tuple(objective.about_guards(keep=False)), "data")
    space = search_space(config, objective.sizes.trial_rows)
    yield _space(space)
    yield from _noticed(read_past(config, space).notices, "search")
    yield _prompts(config, objective, space)
    yield from _memory(config, objective, space)
    yield from _noticed(objective.about_together(), "search")
    yield from _time(config, objective, space)


def _noticed(notices: Sequence[Notice], about: About) -> Iterator[Check]:
    for notice in notices:
        if notice.about == about:
            yield Check(about, "note", notice.text, notice)


def _own_trainer(config: RunConfig) -> Iterator[Check]:
    """What can be known of a trainer of the user's own without running it."""
    objective = config.objective
    assert objective is not None
    try:
        trainer = ExternalObjective.from_config(config)
        space = search_space(config, None)
        past = read_past(config, space).notices
        get_preset(config.search.preset, language=config.language.model != "none")
    except LoracleError as error:
        yield Check("input", "bad", str(error))
        return
    what = f"function {objective.function}"
    if objective.command is not None:
        what = f"{' '.join(split_command(objective.command))}, in {objective.working_folder}"
    yield Check("trainer", "ok", f"{what}; its result is to be {objective.direction}d")
    if not trainer.has_final:
        yield Check("final", "note", "uses neither phase nor fraction, so the winner is not run once more")
    unread = config.model and config.language.model != "same"
    given = [name for name, value in (("model", unread), ("data", config.data != NO_DATA)) if value]
    if given:
        yield Check("unused", "note", f"{' and '.join(given)}: a trainer of your own has its own")
    yield _space(space)
    yield from _noticed((*past, *search_notices(config, space, None)), "search")
    yield from _expected(config, space, forecast(config, space, has_final=trainer.has_final))
    yield _output(config)


def _device(config: RunConfig) -> str:
    text = f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"{', '.join(names)}; {text}"
    if torch.backends.mps.is_available():
        return f"Apple GPU; {text}"
    return f"no GPU here, so trials run on the CPU; {text} (config: device {config.device})"


def _data(objective: TrainingObjective) -> Iterator[Check]:
    splits = objective.splits
    yield Check(
        "data",
        "ok",
        f"{objective.n_train:,} training, {len(splits.validation):,} validation, {len(splits.test):,} test "
        f"examples; a trial trains on {objective.n_proxy:,}",
    )


def _model(base: Base, config: RunConfig) -> str:
    dtype = str(base.dtype).removeprefix("torch.")
    quantized = f", weights in {config.quantization}" if config.quantization else ""
    attention = getattr(base.model.config, "_attn_implementation", None)
    count = show_count(base.model.num_parameters())
    text = f"{base.name}: {count} parameters, {dtype}{quantized} on {base.device}"
    if attention:
        text += f", attention {printable(attention)}"
    if base.layers is not None:
        held = base.held_bytes / base.layers.whole_bytes
        text += f"; each of {config.processes} processes holds {held:.0%} of the weights"
    return text


def _targets(objective: TrainingObjective) -> str:
    names = objective.adapted
    text = f"{len(names):,} modules get an adapter: {patterns(names, shown=12)}"
    whole = objective.config.training.modules_to_save
    return f"{text}; trained whole: {', '.join(whole)}" if whole else text


def _space(space: SearchSpace) -> Check:
    return Check("space", "ok", f"{len(space.candidates):,} candidates of {space.size:,} configs")


def _prompts(config: RunConfig, objective: TrainingObjective, space: SearchSpace) -> Check:
    preset = get_preset(config.search.preset, language=config.language.model != "none")
    if not preset.reads:
        return Check("prompts", "ok", f"preset {config.search.preset}: numbers only, no language model")
    base = objective.base
    model = load_language_model(
        config.language,
        tuned=(base.model, base.tokenizer),
        device=config.device,
        trust_remote_code=config.trust_remote_code,
    )
    assert model is not None  # `get_preset` refuses `none` here
    prompt = run_prompt(config, space, model, objective.n_proxy)
    sample = [space.config(int(index)) for index in space.candidates[:: max(1, len(space.candidates) // 200)]]
    longest = max(len(ids) for ids in model.token_ids([prompt.text(config) for config in sample]))
    limit = "" if model.limit is None else f" of {model.limit:,}"
    if model.limit is not None and longest >= model.limit:
        text = (
            f"a prompt of {prompt.version} has {longest:,} tokens, {model.name} reads at most {model.limit:,}"
        )
        return Check("prompts", "bad", f"{text}; choose a shorter language.prompt")
    return Check("prompts", "ok", f"{prompt.version} read by {model.name}, {longest:,}{limit} tokens at most")


def _memory(config: RunConfig, objective: TrainingObjective, space: SearchSpace) -> Iterator[Check]:
    """What trials will take, what there is, and which candidates cannot fit; raises if none can."""
    model, standard = objective.memory, with_alpha(config.standard or {})
    allowed(model, space)
    peaks, *_ = describe(model, space, standard)
    if model.limit is None:
        peaks += f"; how much there is on {objective.base.device} is not known"
    elif model.peak(standard) > model.limit:
        peaks += "; the standard config does not fit, so it cannot be compared with"
    fits = model.limit is None or model.peak(standard) <= model.limit
    yield Check("memory", "ok" if fits else "note", peaks)
    yield from _noticed(search_notices(config, space, model, objective.sizes), "search")


def _time(config: RunConfig, objective: TrainingObjective, space: SearchSpace) -> Iterator[Check]:
    """How long the run takes, final trainings included, with as many threads as a worker has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads_each(config.threads, max(1, config.execution.workers)) or threads)
    try:
        pace = objective.pace()
    finally:
        torch.set_num_threads(threads)
    part, parameters = Report(sizes=objective.sizes).part, objective.base.model.num_parameters()
    preset = run_preset(config, prior_contents(run_preset(config), {}, parameters, part))
    search = Search(space, preset, None, config.search.seed, memory=objective.memory)
    sizes, first = objective.sizes, search.first
    estimates = forecast(config, space, has_final=True, sizes=sizes, pace=pace, first=first)
    yield from _expected(config, space, estimates)


def _expected(config: RunConfig, space: SearchSpace, estimates: Forecast) -> Iterator[Check]:
    stored = stored_outcomes(config.output / "trials")
    done = [Trial(number, 0, outcome) for number, outcome in enumerate(stored)]
    budget = min(config.search.trials, len(space.candidates))
    expected = estimates.expected(done, budget, max(1, config.execution.workers))
    if expected.trials or (expected.finals and not (config.output / FINISHED).exists()):
        yield Check("search", "ok", search_ends(config, estimates.each_after(done)))
        yield Check("time", "ok", in_words(expected), expected=expected)


def _output(config: RunConfig) -> Check:
    folder = config.output
    try:
        require_own(folder)
        require_recorded(config)
        if (folder / "journal.log").exists():
            return Check(
                "output",
                "note",
                f"{folder} holds a run already; tune continues it, if data and model are still the same",
            )
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except StudyError as error:  # the words of `tune`
        return Check("output", "bad", str(error))
    except OSError as error:  # a name that no file can have
        return Check("output", "bad", f"{folder} cannot be used: {error.strerror}")
    if not os.access(existing, os.W_OK):
        return Check("output", "bad", f"{existing} cannot be written; name another output")
    return Check("output", "ok", f"{folder}, {show_bytes(shutil.disk_usage(existing).free)} free")
