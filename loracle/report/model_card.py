"""The card of an adapter, `README.md`, in the form that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from loracle import __version__
from loracle.config.data.sources import Source, short_name
from loracle.config.metrics import metric_of
from loracle.config.settings import RunConfig
from loracle.records.sizes import Sizes
from loracle.records.trial import Outcome
from loracle.report.verdict import Comparison, trained_once, verdict
from loracle.report.wording import show_test, show_value, shown_knobs
from loracle.text import escape

_PACKAGES = ("torch", "transformers", "peft")


def model_card(config: RunConfig, comparison: Comparison, sizes: Sizes, recipe: Mapping[str, Any]) -> str:
    """The card of the adapter in `best/`: base model, data, settings, scores, how to load it, versions."""
    metric = config.metric
    chosen, outcome = comparison.sides[comparison.best]
    name = config.output.name
    lines = [f"# {escape.markdown(name)}", ""]
    lines += [f"LoRA adapter of {_code(config.model)}, trained with Loracle. {_whose(comparison)}", ""]
    lines += ["## Scores", "", verdict(comparison, metric), ""]
    lines += ["| | score on test data (95 % interval) |", "|---|---|"]
    lines += [f"| {side} | {show_test(found, metric)} |" for side, (_, found) in comparison.sides.items()]
    lines += ["", f"Metric: {metric_of(metric).title}. {trained_once(comparison)} {sizes.finals()}.", ""]
    lines += ["## Data", "", f"- training: {_source(config.data.train)}, {sizes.train:,} examples used"]
    lines += [f"- test: {_source(config.data.test or config.data.train)}, {sizes.test:,} examples used", ""]
    lines += ["## Settings", ""]
    lines += [f"- {_code(knob)}: {show_value(value)}" for knob, value in shown_knobs(chosen).items()]
    steps = recipe["trained"]["steps"]
    training = recipe["training"]
    lines += [f"- optimizer steps: {steps:,}, of which {training['warmup_steps']:,} warm up"]
    lines += [f"- optimizer, schedule: {_code(_optimizer(recipe))}, {_code(training['lr_scheduler_type'])}"]
    lines += [f"- seed: {training['seed']}; loss: {recipe['trained']['loss']}"]
    lines += ["- all others are in `recipe.yaml`", ""]
    lines += ["## Use", "", "```python", _use(config), "```", ""]
    lines += ["## Versions", "", f"- loracle {__version__}"]
    lines += [f"- {package} {version(package)}" for package in _PACKAGES]
    header = _data(config, name, outcome).to_yaml()
    return f"---\n{header}\n---\n\n" + "\n".join(lines) + "\n"


def _optimizer(recipe: Mapping[str, Any]) -> str:
    """transformers' name for it, or the function that makes one that transformers has no name for."""
    named = recipe["training"].get("optim")
    return str(named or recipe["trained"]["optimizer"]["function"])


def _whose(comparison: Comparison) -> str:
    if comparison.same:
        return "Its settings are the standard ones: a search found nothing better to recommend."
    if comparison.best == "standard" and comparison.standing != "worse":
        why = "failed" if comparison.winner_outcome.value is None else "lost what must not be lost"
        return f"Its settings are the standard ones: what the search found {why}."
    if comparison.best == "standard":
        return "Its settings are the standard ones, which did better than what the search found."
    return "Its settings were found by a search."


def _data(config: RunConfig, name: str, outcome: Outcome) -> ModelCardData:
    """The header. A base model that is a folder here has no place in it: the hub takes ids alone."""
    scores = None
    if outcome.value is not None:
        metric = config.metric
        scores = [
            EvalResult(
                task_type="text-generation",
                dataset_type="text",
                dataset_name=escape.printable(short_name(config.data.test or config.data.train)),
                dataset_split="test",
                metric_type=metric,
                metric_name=f"test {metric_of(metric).title}",
                metric_value=metric_of(metric).read(outcome.value),
            )
        ]
    return ModelCardData(
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["lora", "loracle"],
        model_name=escape.printable(name),
        eval_results=scores,
        base_model=None if _is_folder(config.model) else config.model,
    )


def _use(config: RunConfig) -> str:
    base = "" if not _is_folder(config.model) else "  # needs its base model at the same path"
    return "\n".join(
        [
            "from peft import AutoPeftModelForCausalLM",
            "from transformers import AutoTokenizer",
            "",
            f'model = AutoPeftModelForCausalLM.from_pretrained("FOLDER"){base}',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        ]
    )


def _is_folder(model: str) -> bool:
    return Path(model).is_dir()


def _source(source: Source) -> str:
    return _code(short_name(source))


def _code(text: str) -> str:
    """Foreign text as a code span; a backtick in it would end the span."""
    return f"`{escape.printable(text).replace('`', chr(39))}`"
