"""A config of ours, written from the settings of other trainers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loracle.config.knobs import KNOBS as OUR_KNOBS
from loracle.config.loading import parse_config
from loracle.config.new_file import write_new
from loracle.config.yaml_file import dump
from loracle.errors import ConfigError
from loracle.export.incoming import datasets, meanings
from loracle.export.incoming.kinds import Source, read_source
from loracle.export.incoming.sweep import knob_values
from loracle.records.standard_settings import STANDARD
from loracle.text.comments import comment_head
from loracle.text.escape import printable


@dataclass
class _Reading:
    """What has been understood so far.

    Attributes:
        content: our config, as nested mappings.
        standard: the imported settings, which the winner is compared with.
        notes: in words, what has no counterpart, or was decided.
    """

    content: dict[str, Any] = field(default_factory=dict)
    standard: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, place: str, value: Any) -> None:
        section, _, name = place.rpartition(".")
        where = self.content.setdefault(section, {}) if section else self.content
        where[name or place] = value


def import_config(files: Sequence[Path], output: Path) -> list[str]:
    """Reads settings of other trainers, writes them as a config into a new file; returns what is to be said.

    Args:
        files: one of settings, and sweeps beside it.
        output: of the config.

    Raises:
        ConfigError: a file cannot be read, or is of no kind that is known; two disagree about their kind; the
            settings make no config; or `output` is there already.
    """
    if output.exists():
        raise ConfigError(f"{output} exists already; name another file with -o")
    sources = [read_source(path, meanings.known_keys()) for path in files]
    whole = [source for source in sources if source.settings]
    if len(whole) != 1:
        what = "only sweeps" if not whole else " and ".join(str(source.path) for source in whole)
        raise ConfigError(f"{what}: one file of settings is imported at a time, with the sweeps over it")
    (main,) = whole
    reading = _Reading()
    _settings(reading, main)
    batch = _batch(reading, main)
    for source in sources:
        _tried(reading, source, main, batch)
    _complete(reading, main)
    _data(reading, main, output)
    text = _text(reading, main)
    parse_config(text, source=f"{main.path} as a config of ours")
    write_new(output, text)
    return reading.notes


def _settings(reading: _Reading, source: Source) -> None:
    """Every key of the file: understood, harmless, or said in words."""
    names, aside = meanings.our_names(), []
    for key, value in source.settings.items():
        if value is None or value == "" or key in _ELSEWHERE:
            continue
        if key in meanings.FLAGS:
            place, meant = meanings.FLAGS[key]
            if value is True:
                reading.put(place, meant)
        elif key in meanings.START_KEYS:
            if value in meanings.STARTS:
                reading.put("training.variant", meanings.STARTS[value])
            elif value is not True:
                reading.notes.append(f"{key}: {value!r} is no variant here")
        elif key in meanings.ANYWAY:
            so, otherwise = meanings.ANYWAY[key]
            if value != so:
                reading.notes.append(f"{key}: {value}: {otherwise}")
        elif key in names:
            _one(reading, key, names[key], value)
        elif key in meanings.HARMLESS or key.startswith(meanings.HARMLESS_PREFIXES):
            aside.append(key)
        elif value is not False and value != [] and value != {}:
            reading.notes.append(f"{key}: {printable(repr(value), 60)} has no counterpart here")
    if source.settings.get("finetuning_type", "lora") != "lora":
        raise ConfigError(
            f"{source.path}: finetuning_type is {source.settings['finetuning_type']}; LoRA is tuned"
        )
    if source.settings.get("stage", "sft") not in ("sft", "pt") or source.settings.get("rl"):
        raise ConfigError(
            f"{source.path}: it trains with rewards or preferences; supervised training is tuned"
        )
    if aside:
        reading.notes.append(f"left out, as they change nothing that is learnt: {', '.join(aside)}")


_ELSEWHERE = {
    *meanings.MICRO,
    *meanings.ACCUMULATION,
    *("datasets", "dataset", "dataset_name", "eval_dataset", "validation_datasets", "test_datasets"),
    *("val_set_size", "val_size", "warmup_steps", "template", "chat_template", "data_files"),
    *("dataset_config", "dataset_train_split"),
}


def _one(reading: _Reading, key: str, ours: str, value: Any) -> None:
    if ours == "training.max_steps" and isinstance(value, int) and value <= 0:
        return  # transformers' own word for none
    try:
        said = meanings.AS_OURS.get(ours, lambda given: given)(value)
    except (KeyError, TypeError, ValueError):
        reading.notes.append(f"{key}: {printable(repr(value), 60)} has no word here; {ours} is as it was")
        return
    if ours in meanings.KNOBS:
        try:
            reading.standard[ours] = float(said) if ours in ("dropout", "learning_rate") else _number(said)
        except (TypeError, ValueError):
            reading.notes.append(f"{key}: {printable(repr(value), 60)} is no number")
    else:
        reading.put(ours, said)


def _number(value: Any) -> int | float:
    number = float(value)
    return int(number) if number.is_integer() else number


def _batch(reading: _Reading, source: Source) -> tuple[int, int]:
    """Micro-batch and accumulation; their product is the effective batch on one device."""
    settings = source.settings
    micro = next((settings[key] for key in meanings.MICRO if isinstance(settings.get(key), int)), None)
    times = settings.get("gradient_accumulation_steps") or 1
    if micro is not None and isinstance(times, int):
        reading.standard["batch_size"] = micro * times
        reading.notes.append(
            f"batch_size: {micro} x {times} = {micro * times} on one device; on more, times their number"
        )
    warm = settings.get("warmup_steps")
    if isinstance(warm, float) and 0 < warm < 1:
        reading.put("training.warmup_fraction", warm)
    elif warm:
        reading.notes.append(
            f"warmup_steps: {warm} is a number of steps, which fits one length of training; "
            "training.warmup_fraction is a share of them, 0.03 where nothing is set"
        )
    return (micro if isinstance(micro, int) else 8), (times if isinstance(times, int) else 1)


def _tried(reading: _Reading, source: Source, main: Source, batch: tuple[int, int]) -> None:
    """What a sweep tries becomes knobs of the space."""
    names = meanings.our_names() | dict.fromkeys(meanings.MICRO, "batch_size")
    names |= dict.fromkeys(meanings.ACCUMULATION, "batch_size")
    knobs: dict[str, Any] = reading.content.get("space", {}).get("knobs", {})
    for key, tried in source.tried.items():
        ours = names.get(key, "").removeprefix("training.")
        if ours not in OUR_KNOBS or not isinstance(tried, dict):
            reading.notes.append(f"{key}: it is not searched here; what is: {', '.join(OUR_KNOBS)}")
            continue
        try:
            knob = knob_values(ours, tried, f"{source.path}: {key}")
        except ConfigError as error:
            reading.notes.append(f"{error}; it is not searched")
            continue
        if key in (*meanings.MICRO, *meanings.ACCUMULATION):
            factor = batch[1] if key in meanings.MICRO else batch[0]
            knob["values"] = sorted({int(value * factor) for value in knob["values"]})
            reading.notes.append(f"{key}: searched as batch_size, times {factor}")
        if "low" in tried:
            shown = ", ".join(f"{value:g}" for value in knob["values"])
            reading.notes.append(f"{key}: {tried['low']} to {tried['high']} is searched at {shown}")
        knobs[ours] = knob
    if knobs:
        remove = {"remove": ["alpha_ratio"], "constraints": []} if "alpha" in knobs else {}
        reading.content["space"] = {"base": "default", **remove, "knobs": knobs}


def _complete(reading: _Reading, main: Source) -> None:
    """What the file leaves to its trainer's defaults, said as such."""
    defaults = dict(main.kind.defaults)
    standard = reading.standard
    if defaults.get("alpha", 0) is None:
        defaults["alpha"] = 2 * standard.get("rank", defaults["rank"])
    for knob, usual in STANDARD.items():
        if knob not in standard:
            standard[knob] = defaults.get(knob, usual)
            whose = f"{main.kind.title}'s own default" if knob in defaults else "the usual value here"
            reading.notes.append(f"{knob}: not in the file; {standard[knob]:g} is {whose}")
    training = reading.content.setdefault("training", {})
    for name in ("epochs", "schedule", "warmup_fraction"):
        given = name in training or (name == "epochs" and "max_steps" in training)
        counted = name == "warmup_fraction" and main.settings.get("warmup_steps")
        if name in defaults and not given and not counted:
            training[name] = defaults[name]
            reading.notes.append(
                f"training.{name}: not in the file; {defaults[name]} is {main.kind.title}'s own default"
            )
    if "max_steps" in training and training.pop("epochs", None) is not None:
        reading.notes.append("epochs: left out, as max_steps says how long a training is")
    reading.content["standard"] = standard


def _data(reading: _Reading, source: Source, output: Path) -> None:
    settings = source.settings
    given = datasets.listed(settings)
    if len(given) > 1:
        names = ", ".join(map(datasets.place_of, given))
        reading.notes.append(
            f"data: {len(given)} datasets ({names}); the first is named, join them in one file"
        )
    if given:
        reading.put("data.train", datasets.train_source(given[0], source, output, reading.notes.append))
    else:
        reading.put("data.train", "train.jsonl")
        reading.notes.append(
            "data.train: train.jsonl: no dataset is named; put the file there or name yours (docs/data.md)"
        )
    shape = given[0].get("type") if given and isinstance(given[0], dict) else None
    if shape:
        reading.notes.append(
            f"data: its rows are of type {printable(repr(shape), 60)} there; see docs/data.md"
        )
    for key in ("val_set_size", "val_size"):
        share = settings.get(key)
        if isinstance(share, float) and 0 < share < 1:
            reading.put("data.validation_fraction", share)
        elif share is not None:
            reading.notes.append(
                f"{key}: {share}; data.validation_fraction is 0.1, as choosing takes some rows"
            )
    for key in ("eval_dataset", "validation_datasets", "test_datasets"):
        if settings.get(key):
            reading.notes.append(
                f"{key}: {printable(repr(settings[key]), 60)}; name a file in data.validation or data.test"
            )
    for key in ("template", "chat_template"):
        if settings.get(key):
            reading.notes.append(f"{key}: {settings[key]}; here the chat template of the tokenizer is used")


def _text(reading: _Reading, source: Source) -> str:
    content = {"model": reading.content.pop("model", None), "output": "run"}
    if content["model"] is None:
        raise ConfigError(
            f"{source.path}: it names no model (base_model, model_name_or_path, model.model_name)"
        )
    order = ("dtype", "quantization", "trust_remote_code", "data", "space", "training", "search", "standard")
    content |= {
        name: reading.content[name] for name in order if reading.content.get(name) not in (None, {}, False)
    }
    said = [
        f"Imported from {source.path.name}, a file of settings of {source.kind.title}.",
        "Next: loracle doctor FILE, then loracle tune FILE.",
    ]
    return comment_head(said, "What was decided, or has no counterpart:", reading.notes) + dump(content)
