"""What a run leaves for people: `report.md` with its figure, and `best/recipe.yaml`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loracle import __version__, escape
from loracle.command import fill, split_command
from loracle.config import RunConfig
from loracle.notices import Notice
from loracle.optimizer import PRESETS
from loracle.outcomes import write_atomically
from loracle.space import Config, SearchSpace, Value
from loracle.trial import FailureKind, History, Outcome, Trial

OWN_METRICS = ("value", "cost")  # of a trainer of the user's own; see `RunConfig.metric`
_LESS_IS_BETTER = ("loss", "cost")

_BLUE, _ORANGE, _GREY = "#2a6fbb", "#d9822b", "#9a9a9a"


@dataclass(frozen=True)
class Comparison:
    """Winner and standard settings, both trained on all training data and scored once on test data.

    A trainer of the user's own may have no standard settings, and its winner's outcome may be a trial's.
    `difference`, `low` and `high` are of the per-item score (larger is better), winner minus standard on the
    same items, with a 95 % interval; None where one of the two failed.
    """

    winner: Config
    standard: Config | None
    winner_outcome: Outcome
    standard_outcome: Outcome | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None


def shown_knobs(config: Mapping[str, Value]) -> Config:
    """A config as people read it: `alpha` in the place of `alpha_ratio`."""
    if "alpha" not in config or "alpha_ratio" not in config:
        return dict(config)
    swapped = ((("alpha" if n == "alpha_ratio" else n), v) for n, v in config.items() if n != "alpha")
    return {name: config["alpha"] if name == "alpha" else value for name, value in swapped}


def show_value(value: Value) -> str:
    """A knob's value as people write it: `2e-4`, `0.05`, `16`."""
    if value != 0 and (abs(value) < 1e-2 or abs(value) >= 1e6):
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:g}"


def show_config(config: Mapping[str, Value]) -> str:
    """A config in one line."""
    return ", ".join(f"{name} {show_value(value)}" for name, value in shown_knobs(config).items())


def show_score(value: float, metric: str) -> str:
    """A score (larger is better) as its metric reads: a loss without the sign, a share in per cent.

    `value` and `cost` are what a trainer of the user's own gives; they stay as they are.
    """
    if metric in OWN_METRICS:
        return f"{value if metric == 'value' else -value:.6g}"
    return f"{-value:.4f}" if metric == "loss" else f"{100 * value:.1f} %"


def relative_gain(winner: float, standard: float, metric: str) -> float | None:
    """How much better the winner is, relative to the standard settings; None where that has no meaning.

    Accuracies: (winner - standard) / standard. Losses: the share of the loss that is gone.
    """
    if standard == 0:
        return None
    return (winner - standard) / abs(standard)


def comparison_rows(comparison: Comparison, metric: str) -> list[tuple[str, ...]]:
    """Knobs and final score: name, winner, and standard settings where there are some; first the names."""
    sides = _sides(comparison)
    columns = [shown_knobs(config) for config, _ in sides.values()]
    rows: list[tuple[str, ...]] = [("", *sides)]
    for name in dict.fromkeys(name for column in columns for name in column):
        rows.append((name, *(show_value(column[name]) if name in column else "" for column in columns)))
    label = metric if metric in OWN_METRICS else f"test {metric.replace('_', ' ')}"
    return [*rows, (label, *(show_test(outcome, metric) for _, outcome in sides.values()))]


def _sides(comparison: Comparison) -> dict[str, tuple[Config, Outcome]]:
    sides = {"winner": (comparison.winner, comparison.winner_outcome)}
    if comparison.standard is not None and comparison.standard_outcome is not None:
        sides["standard"] = (comparison.standard, comparison.standard_outcome)
    return sides


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as plain data for programs."""
    content: dict[str, Any] = {
        name: {
            "config": config,
            "test_value": outcome.value,
            "metrics": dict(outcome.metrics),
            "failure": str(outcome.failure.kind) if outcome.failure else None,
        }
        for name, (config, outcome) in _sides(comparison).items()
    }
    content["difference"] = {
        "mean": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
    }
    return content


def history_rows(space: SearchSpace, history: History, metric: str) -> list[dict[str, Any]]:
    """One row a trial for tables: number, knobs, score (or failure, or running), seconds."""
    rows = []
    for trial in history.trials:
        outcome, score = trial.outcome, "running"
        if outcome is not None:
            score = str(outcome.failure.kind) if outcome.failure else show_score(_value(trial), metric)
        knobs = {name: show_value(v) for name, v in shown_knobs(space.config(trial.index)).items()}
        seconds = f"{outcome.seconds:.1f}" if outcome else ""
        rows.append({"trial": trial.number, **knobs, "score": score, "seconds": seconds})
    return rows


def write_figure(path: Path, space: SearchSpace, history: History, metric: str) -> None:
    """Draws the scores in the order of trials, and against each knob, as a PNG."""
    done = [trial for trial in history.finished if not trial.interrupted]
    scored = [(i, trial) for i, trial in enumerate(done) if trial.outcome and trial.outcome.value is not None]
    figure = Figure(figsize=(11, 6), layout="constrained")
    grid = figure.add_gridspec(2, len(space.knobs), height_ratios=(1.3, 1))
    top = figure.add_subplot(grid[0, :])
    label = "validation loss" if metric == "loss" else metric.replace("_", " ")
    sign = -1.0 if metric in _LESS_IS_BETTER else 1.0
    numbers = np.array([i + 1 for i, _ in scored])
    values = np.array([_value(trial) for _, trial in scored])
    failed = [i + 1 for i, trial in enumerate(done) if trial.outcome and trial.outcome.failure]
    if len(values):
        top.scatter(numbers, sign * values, color=_BLUE, s=26, label="trial", zorder=3)
        top.step(
            numbers, sign * np.maximum.accumulate(values), where="post", color=_ORANGE, label="best so far"
        )
        lowest = float((sign * values).max() if metric in _LESS_IS_BETTER else (sign * values).min())
    else:
        lowest = 0.0
    if failed:
        top.scatter(failed, [lowest] * len(failed), marker="x", color=_GREY, label="failed")
    top.set(xlabel="trial", ylabel=label)
    top.legend(frameon=False)
    top.xaxis.set_major_locator(MaxNLocator(integer=True))
    for column, knob in enumerate(space.knobs):
        axes = figure.add_subplot(grid[1, column])
        at = [knob.position(space.config(trial.index)[knob.name]) for _, trial in scored]
        axes.scatter(at, sign * values, color=_BLUE, s=16, alpha=0.8)
        labels = [show_value(value) for value in knob.values]
        axes.set_xticks(range(len(labels)), labels, rotation=90 if len(labels) > 5 else 0, fontsize=8)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_xlabel(knob.name)
        axes.tick_params(labelleft=column == 0)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=120)


def recipe(config: RunConfig, winner: Config, micro_batch: int | None = None) -> dict[str, Any]:
    """The winner in the words of PEFT's `LoraConfig` and transformers' `TrainingArguments`.

    Micro-batch and accumulation multiply to the effective batch; another split of it trains the same.
    `micro_batch` is the one that it was trained with.
    """
    training = config.training
    largest = micro_batch or training.largest_micro_batch
    batch = int(winner.get("batch_size", largest))
    micro = next(size for size in range(min(batch, largest), 0, -1) if batch % size == 0)
    overrides = {name: winner[name] for name in type(training).model_fields if name in winner}
    training = training.model_copy(update=overrides)
    return {
        "loracle": __version__,
        "base_model": config.model,
        "lora": {
            "r": int(winner["rank"]),
            "lora_alpha": winner["alpha"],
            "lora_dropout": winner.get("dropout", 0.0),
            "target_modules": training.targets,
            "use_rslora": training.variant == "rslora",
            "use_dora": training.variant == "dora",
            "init_lora_weights": "pissa" if training.variant == "pissa" else True,
            "bias": "none",
            "task_type": "CAUSAL_LM",
        },
        "training": {
            "learning_rate": winner["learning_rate"],
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": batch // micro,
            "num_train_epochs": training.epochs,
            "lr_scheduler_type": training.schedule,
            "warmup_ratio": training.warmup_fraction,
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.max_gradient_norm,
            "max_length": config.data.max_length,
            "seed": config.search.seed,
        },
    }


def recipe_text(config: RunConfig, winner: Config, micro_batch: int | None = None) -> str:
    """`recipe` as YAML, with a line that says what it is."""
    head = "# The winning settings in the words of peft.LoraConfig and transformers.TrainingArguments.\n"
    return head + yaml.safe_dump(recipe(config, winner, micro_batch), sort_keys=False)


def write_report(
    config: RunConfig,
    space: SearchSpace,
    history: History,
    comparison: Comparison,
    stopped: str,
    memory: Sequence[str] = (),
    notices: Sequence[Notice] = (),
) -> None:
    """Writes `report.md`, `progress.png` and `best/recipe.yaml`; `best.yaml` for a trainer of one's own."""
    folder = config.output
    write_figure(folder / "progress.png", space, history, config.metric)
    text = report_text(config, space, history, comparison, stopped, memory, notices)
    write_atomically(folder / "report.md", text)
    if config.objective is not None:
        write_atomically(folder / "best.yaml", own_recipe_text(config, comparison.winner))
    elif comparison.winner_outcome.failure is None:
        micro_batch = int(comparison.winner_outcome.metrics.get("micro_batch", 0)) or None
        text = recipe_text(config, comparison.winner, micro_batch)
        write_atomically(folder / "best" / "recipe.yaml", text)


def own_recipe_text(config: RunConfig, winner: Config) -> str:
    """The winner for a trainer of the user's own as YAML: settings, and the command, ready for a shell."""
    assert config.objective is not None
    content: dict[str, Any] = {"loracle": __version__, "settings": dict(winner)}
    if config.objective.command is not None:
        values: dict[str, str | Value] = {**winner, "seed": config.search.seed, "fraction": 1.0}
        values |= {"number": "winner", "phase": "final", "folder": str(config.output / "final" / "winner")}
        parts = split_command(config.objective.command)
        content["command"] = shlex.join(fill(part, values) for part in parts)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)


def report_text(
    config: RunConfig,
    space: SearchSpace,
    history: History,
    comparison: Comparison,
    stopped: str,
    memory: Sequence[str] = (),
    notices: Sequence[Notice] = (),
) -> str:
    """The report as Markdown.

    `stopped` says why the search ended; `memory` what `memory.describe` says about it; `notices` are what
    the user must see.
    """
    metric = config.metric
    name = Path(config.model).name or config.model or config.output.name
    lines = [f"# LoRA search: {name}", "", verdict(comparison, metric), ""]
    if notices:
        lines += ["## Notices", "", *(f"- {n.about}: {escape.markdown(n.text)}." for n in notices), ""]
    head, *rows = [f"| {' | '.join(row)} |" for row in comparison_rows(comparison, metric)]
    lines += [head, "|---" * (head.count("|") - 1) + "|", *rows]
    lines += ["", paired(comparison, metric)]
    lines += ["", "![scores by trial and by knob](progress.png)", "", "## How it was found", ""]
    lines += _how(config, space, history, stopped)
    lines += [f"- {line[:1].upper()}{line[1:]}." for line in memory]
    lines += ["", "## All trials", "", *_trial_table(space, history, metric), ""]
    if config.objective is not None:
        return "\n".join([*lines, "## Use it", "", "`best.yaml` states the settings.", *_chosen(config), ""])
    lines += [
        "## Use it",
        "",
        "`best/` is a PEFT adapter; `best/recipe.yaml` states the settings.",
        "",
        "```python",
        "from peft import AutoPeftModelForCausalLM",
        "",
        'model = AutoPeftModelForCausalLM.from_pretrained("best")',
        "```",
        "",
    ]
    return "\n".join(lines)


def verdict(comparison: Comparison, metric: str) -> str:
    """The result in one sentence or two."""
    tuned, standard_outcome = comparison.winner_outcome.value, comparison.standard_outcome
    standard = standard_outcome.value if standard_outcome else None
    if tuned is None or (standard is None and standard_outcome is not None):
        return f"The best settings found are {show_config(comparison.winner)}."
    own = metric in OWN_METRICS
    found = f"The best settings found reach {'a ' if own else ''}{_phrase(tuned, metric)}"
    if standard is None:
        return f"{found}: {show_config(comparison.winner)}."
    gain = relative_gain(tuned, standard, metric)
    change = "" if gain is None else f", a relative gain of {100 * gain:.0f} %"
    usual = f"the standard settings {show_score(standard, metric)}{change}"
    if own:
        return f"{found}, {usual}."
    return f"{found} on test data, {usual}. Both were trained on all training data and scored once."


def _phrase(value: float, metric: str) -> str:
    score = show_score(value, metric)
    return f"{metric} of {score}" if metric in OWN_METRICS else f"{score} {metric.replace('_', ' ')}"


def paired(comparison: Comparison, metric: str) -> str:
    """The paired difference on test items, in one sentence; empty where there is none."""
    if comparison.difference is None or comparison.low is None or comparison.high is None:
        return ""
    unit, scale = ("nats a token", 1.0) if metric == "loss" else ("points", 100.0)
    mean, low, high = (scale * x for x in (comparison.difference, comparison.low, comparison.high))
    return (
        f"On the same test items the winner is better by {mean:.3g} {unit} "
        f"(95 % interval {low:.3g} to {high:.3g})."
    )


def show_test(outcome: Outcome, metric: str) -> str:
    """A test score with its 95 % interval, or the kind of failure."""
    if outcome.value is None:
        return str(outcome.failure.kind) if outcome.failure else ""
    if not {"low", "high"} <= outcome.metrics.keys():
        return show_score(outcome.value, metric)
    ends = sorted(abs(outcome.metrics[name]) for name in ("low", "high"))
    low, high = (f"{end:.4f}" if metric == "loss" else f"{100 * end:.1f}" for end in ends)
    return f"{show_score(outcome.value, metric)} ({low} to {high})"


# -- helpers ----------------------------------------------------------------------------------------


def _chosen(config: RunConfig) -> list[str]:
    """What to know about a score that is the best of many."""
    if (config.output / "final" / "winner").exists():
        return ["What the last run of the winner saved is in `final/winner/`."]
    return [
        "",
        "The trainer uses neither `phase` nor `fraction`, so the winner was not run again. Its score is the "
        "one of its trial, and the best of many scores is a little too good.",
    ]


def _how(config: RunConfig, space: SearchSpace, history: History, stopped: str) -> list[str]:
    failures = [t.outcome.failure.kind for t in history.finished if t.outcome and t.outcome.failure]
    kinds = ", ".join(f"{failures.count(kind)} {kind}" for kind in FailureKind if kind in failures)
    seconds = sum(trial.outcome.seconds for trial in history.finished if trial.outcome)
    lines = [
        f"- {len(history.finished)} trials, {seconds / 60:.1f} minutes of training and scoring; {stopped}.",
        f"- {len(space.candidates):,} candidates, preset `{config.search.preset}`, "
        f"seed {config.search.seed}.",
    ]
    if PRESETS[config.search.preset].reads:
        lines.append(f"- Prompts `{config.language.prompt}` read by `{config.language.model}`.")
    if config.objective is None:
        lines.append(f"- Each trial trained on {100 * config.data.proxy:g} % of the training data.")
    if kinds:
        lines.append(f"- Failed trials: {kinds}.")
    return lines


def _trial_table(space: SearchSpace, history: History, metric: str) -> list[str]:
    rows = history_rows(space, history, metric)
    lines = [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"] if rows else []
    return lines + [f"| {' | '.join(str(cell) for cell in row.values())} |" for row in rows]


def _value(trial: Trial) -> float:
    assert trial.outcome is not None
    assert trial.outcome.value is not None
    return trial.outcome.value
