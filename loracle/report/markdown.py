"""What a run leaves for people: `report.md` with its figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from loracle.config.settings import RunConfig
from loracle.records.notices import Notice
from loracle.records.sizes import Sizes
from loracle.records.space import SearchSpace
from loracle.records.trial import FailureKind, History
from loracle.report.explanation.held import TITLE, held_lines
from loracle.report.findings.records import HeldLikely
from loracle.report.findings.search_cost import search_cost, show_trainings
from loracle.report.folders import final_folder
from loracle.report.objectives import PARETO, front_rows
from loracle.report.tables import comparison_rows, history_table
from loracle.report.verdict import Comparison, trained_once, verdict
from loracle.report.wording import counted_trials
from loracle.search.presets import PRESETS
from loracle.text import escape
from loracle.text.files import write_atomically
from loracle.text.quantities import show_duration


def write_report(
    config: RunConfig,
    space: SearchSpace,
    history: History,
    comparison: Comparison,
    stopped: str,
    *,
    memory: Sequence[str] = (),
    notices: Sequence[Notice] = (),
    sizes: Sizes | None = None,
    held: HeldLikely | None = None,
) -> None:
    """Writes `report.md` and `progress.png`; the arguments are those of `report_text`."""
    from loracle.report.figures import write_figure  # here: whoever reads a run needs no matplotlib

    folder = config.output
    write_figure(folder / "progress.png", space, history, config.metric)
    text = report_text(
        config, space, history, comparison, stopped, memory=memory, notices=notices, sizes=sizes, held=held
    )
    write_atomically(folder / "report.md", text)


def report_text(
    config: RunConfig,
    space: SearchSpace,
    history: History,
    comparison: Comparison,
    stopped: str,
    *,
    memory: Sequence[str] = (),
    notices: Sequence[Notice] = (),
    sizes: Sizes | None = None,
    held: HeldLikely | None = None,
) -> str:
    """The report as Markdown.

    Args:
        config: of the run.
        space: that was searched.
        history: all trials.
        comparison: winner and standard settings.
        stopped: why the search ended.
        memory: what `memory.describe` says about it.
        notices: what the user must see.
        sizes: how many examples were used; None: the trainer is the user's own.
        held: what the user held likely; None: nothing.
    """
    metric = config.metric
    name = Path(config.model).name or config.model or config.output.name
    lines = [f"# LoRA search: {escape.markdown(name)}", "", verdict(comparison, metric, history), ""]
    if sizes is not None:
        lines += [f"{trained_once(comparison)} {sizes.finals()}.", ""]
    if notices:
        lines += ["## Notices", "", *(f"- {n.about}: {escape.markdown(n.text)}." for n in notices), ""]
    lines += [*_table(comparison_rows(comparison, metric, config.scoring.all_metrics)), ""]
    if config.objectives:
        rows = front_rows(space, history, config.objectives, space.index(comparison.winner))
        lines += ["## Pareto set", "", f"{PARETO}.", "", *_table(rows), ""]
    lines += ["![scores by trial and by knob](progress.png)", "", "## How it was found", ""]
    lines += _how(config, space, history, comparison, stopped, sizes)
    lines += [f"- {line[:1].upper()}{line[1:]}." for line in memory]
    if held is not None:
        lines += ["", f"## {TITLE}", "", " ".join(map(escape.markdown, held_lines(held)))]
    lines += ["", "## All trials", "", *_table(history_table(space, history, metric, config.objectives)), ""]
    return "\n".join([*lines, "## Use it", "", *_use(config, comparison), ""])


# -- helpers ----------------------------------------------------------------------------------------


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    head, *rest = [f"| {' | '.join(map(escape.markdown, row))} |" for row in rows]
    return [head, "|---" * (head.count(" | ") + 1) + "|", *rest]


def _how(
    config: RunConfig,
    space: SearchSpace,
    history: History,
    comparison: Comparison,
    stopped: str,
    sizes: Sizes | None,
) -> list[str]:
    seconds = sum(trial.outcome.seconds for trial in history.finished if trial.outcome)
    lines = [
        f"- {counted_trials(len(history.finished))}, {show_duration(seconds)} of training and scoring; "
        f"{stopped}.",
        f"- {len(space.candidates):,} candidates, preset `{config.search.preset}`, "
        f"seed {config.search.seed}.",
    ]
    if (cost := search_cost(trial.outcome for trial in history.finished if trial.outcome)) is not None:
        lines.append(
            f"- The search cost {show_trainings(cost.trainings)}: tokens trained on, read and written for "
            "scoring, over those of one training on all data with the standard settings."
        )
    if PRESETS[config.search.preset].reads:
        prompt, model = map(escape.markdown, (config.language.prompt, config.language.model))
        lines.append(f"- Prompts {prompt} read by {model}.")
    if sizes is not None:
        lines.append(f"- {sizes.trials(config.data.proxy)}.")
    return lines + _failed(history)


def _failed(history: History) -> list[str]:
    """How many trials failed in which way, with the message of the first of each kind."""
    failures = [(t.number, t.outcome.failure) for t in history.finished if t.outcome and t.outcome.failure]
    lines = []
    for kind in FailureKind:
        of_kind = [(number, failure) for number, failure in failures if failure.kind is kind]
        if of_kind:
            number, failure = of_kind[0]
            count = f"{len(of_kind)} {kind}".replace("_", " ")
            said = escape.markdown(failure.message)
            lines.append(f"- Failed trials: {count}. Trial {number}: {said} (`trials/{number:04d}/`)")
    return lines


def _use(config: RunConfig, comparison: Comparison) -> list[str]:
    if config.objective is not None:
        return ["`best.yaml` states the settings.", *_chosen(config)]
    if comparison.sides[comparison.best][1].failure is not None:
        return ["No final training succeeded, so there is no adapter."]
    return [
        "`best/` is a PEFT adapter with its tokenizer; `best/recipe.yaml` states the settings. The adapters "
        "of both final trainings are in `final/winner/adapter/` and `final/standard/adapter/`.",
        "",
        "```python",
        "from peft import AutoPeftModelForCausalLM",
        "from transformers import AutoTokenizer",
        "",
        'model = AutoPeftModelForCausalLM.from_pretrained("best")',
        'tokenizer = AutoTokenizer.from_pretrained("best")',
        "```",
    ]


def _chosen(config: RunConfig) -> list[str]:
    """What to know about a score that is the best of many."""
    if final_folder(config.output, "winner").exists():
        return ["What the last run of the winner saved is in `final/winner/`."]
    return [
        "",
        "The trainer uses neither `phase` nor `fraction`, so the winner was not run again. Its score is the "
        "one of its trial, and the best of many scores is a little too good.",
    ]
