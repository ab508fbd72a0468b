"""A config of ours, written from the settings of other trainers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loracle.config.knobs import KNOBS as OUR_KNOBS
from loracle.config.loading import parse_config
from loracle.config.new_file import write_new
from loracle.config.spellings import ACCUMULATION, MICRO_BATCH
from loracle.config.yaml_file import dump
from loracle.errors import ConfigError
from loracle.export.incoming import datasets, meanings
from loracle.export.incoming.kinds import KINDS, Source, read_source
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
    _loss(reading, main)
    _packing(reading, main)
    _warmup(reading, main)
    batch = _batch(reading, main)
    for source in sources:
        _tried(reading, source, batch)
    _complete(reading, main)
    _data(reading, main, output)
    text = _text(reading, main)
    parse_config(text, source=f"{main.path} as a config of ours", lines=False)
    write_new(output, text)
    return reading.notes


def _settings(reading: _Reading, source: Source) -> None:
    """Every key of the file: understood, harmless, or said in words."""
    names, aside, divided = meanings.our_names(), [], []
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
            elif value not in (True, "default"):
                reading.notes.append(f"{key}: {value!r} is no variant here")
        elif key in meanings.ANYWAY:
            so, otherwise = meanings.ANYWAY[key]
            if value != so:
                reading.notes.append(f"{key}: {value}: {otherwise}")
        elif key in names:
            _one(reading, key, names[key], value)
        elif key in meanings.DIVIDED:
            divided += [key] if value else []
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
    if divided:
        reading.notes.append(
            f"{', '.join(divided)}: where the model has to be divided between GPUs, add "
            "execution.shard_model: true and execution.gpus_per_trial, how many there are for a trial"
        )
    if aside:
        reading.notes.append(f"left out, as they change nothing that is learnt: {', '.join(aside)}")


_ELSEWHERE = {
    *MICRO_BATCH,
    *ACCUMULATION,
    *meanings.WHOLE_ROWS,
    *(meanings.TURNS, meanings.ROWS, meanings.LAST_TURN),
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


def _loss(reading: _Reading, source: Source) -> None:
    """Which tokens the loss counts; here those of completions, and of an assistant's turns."""
    given, turns = source.settings, source.settings.get(meanings.TURNS)
    whole = [key for key, value in meanings.WHOLE_ROWS.items() if given.get(key) is value]
    if whole and turns is not True:
        reading.put("data.loss_on", "all")
    elif whole and source.kind is KINDS["trl"]:
        reading.put("data.loss_on", "assistant")
    elif given.get(meanings.LAST_TURN) is True:
        reading.put("data.loss_on", "completion")
    elif isinstance(given.get(meanings.ROWS), dict):
        reading.put("data.loss_on", "completion")
        reading.notes.append(
            f"{meanings.ROWS}: the last turn counts alone (data.loss_on: completion); where rows are pairs "
            "of texts, add data.as_chat: true"
        )
    elif turns is not True and source.kind is KINDS["trl"] and given.get("completion_only_loss") is None:
        reading.notes.append(
            f"{meanings.TURNS}: {'not in the file' if turns is None else turns}; of chats every turn counts "
            "there, and those of the assistant here; data.loss_on: all counts all of them"
        )


def _packing(reading: _Reading, source: Source) -> None:
    """Where examples of one row see one another there."""
    given = source.settings
    packs = given.get("packing") is True and given.get("neat_packing") is not True
    if packs and source.kind is KINDS["llamafactory"]:
        reading.notes.append(
            "packing: True: without neat_packing the examples of a row see those before them there; here "
            "none sees another"
        )


def _warmup(reading: _Reading, source: Source) -> None:
    """A number of warm-up steps, as a share of all steps where their number is known."""
    warm: Any = source.settings.get("warmup_steps")
    steps = source.settings.get("max_steps")
    counted = isinstance(warm, int | float) and not isinstance(warm, bool)
    if counted and 0 <= warm < 1:
        if warm or source.settings.get("warmup_ratio") is None:
            reading.put("training.warmup_fraction", float(warm))
    elif counted and isinstance(steps, int) and 0 < warm <= steps:
        reading.put("training.warmup_fraction", float(f"{warm / steps:.4g}"))
        reading.notes.append(f"warmup_steps: {warm} of max_steps {steps} as training.warmup_fraction")
    elif warm:
        reading.notes.append(
            f"warmup_steps: {warm} is a number of steps, which fits one length of training; "
            "training.warmup_fraction is a share of them, 0.03 where nothing is set"
        )


def _batch(reading: _Reading, source: Source) -> tuple[int, int]:
    """Micro-batch and accumulation; their product is the effective batch on one device."""
    micro = _count(reading, source, MICRO_BATCH)
    usual = source.kind.defaults["micro_batch"]
    times = _count(reading, source, ACCUMULATION) or 1
    both = (micro or usual, times)
    reading.standard["batch_size"] = both[0] * times
    whose = "" if micro else f" ({usual} is {source.kind.title}'s own default)"
    reading.notes.append(
        f"batch_size: {both[0]}{whose} x {times} = {both[0] * times} on one device; on more, "
        "times their number"
    )
    return both


def _count(reading: _Reading, source: Source, keys: Sequence[str]) -> int | None:
    """The number of the first key that the file has; what is none is said."""
    for key in keys:
        value = source.settings.get(key)
        try:
            number = float("nan" if value is None or isinstance(value, bool) else value)
        except (TypeError, ValueError):
            number = float("nan")
        if number >= 1 and number.is_integer():
            return int(number)
        if value is not None:
            reading.notes.append(f"{key}: {printable(repr(value), 60)} is no whole number from 1 up")
    return None


def _tried(reading: _Reading, source: Source, batch: tuple[int, int]) -> None:
    """What a sweep tries becomes knobs of the space."""
    names = meanings.our_names() | dict.fromkeys(MICRO_BATCH, "batch_size")
    names |= dict.fromkeys(ACCUMULATION, "batch_size")
    knobs: dict[str, Any] = reading.content.get("space", {}).get("knobs", {})
    parts: dict[str, list[float]] = {}  # of the effective batch, as they are tried
    for key, tried in source.tried.items():
        ours = names.get(key, "").removeprefix("training.")
        if ours not in OUR_KNOBS or not isinstance(tried, dict):
            reading.notes.append(f"{key}: it is not searched here; what is: {', '.join(OUR_KNOBS)}")
            continue
        try:
            read = _names_tried if OUR_KNOBS[ours].named else knob_values
            knob = read(ours, tried, f"{source.path}: {key}")
        except ConfigError as error:
            reading.notes.append(f"{error}; it is not searched")
            continue
        if key in (*MICRO_BATCH, *ACCUMULATION):
            is_micro = key in MICRO_BATCH
            parts["micro" if is_micro else "times"] = knob["values"]
            factors = parts.get("times", [batch[1]]) if is_micro else parts.get("micro", [batch[0]])
            knob["values"] = sorted({int(value * factor) for value in knob["values"] for factor in factors})
            by = f"{factors[0]:g}" if len(factors) == 1 else "each value of the other factor"
            reading.notes.append(f"{key}: searched as batch_size, times {by}")
        if "low" in tried:
            shown = ", ".join(f"{value:g}" for value in knob["values"])
            reading.notes.append(f"{key}: {tried['low']} to {tried['high']} is searched at {shown}")
        knobs[ours] = knob
    if knobs:
        remove = {"remove": ["alpha_ratio"], "constraints": []} if "alpha" in knobs else {}
        reading.content["space"] = {"base": "default", **remove, "knobs": knobs}


def _names_tried(knob: str, tried: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A knob with names, in our words, of the choices of a sweep.

    Raises:
        ConfigError: it has no choices, or one of them has no word here.
    """
    choices, as_ours = tried.get("choices"), meanings.AS_OURS.get(f"training.{knob}", str)
    found: dict[str, None] = {}
    for choice in choices if isinstance(choices, list) else [choices]:
        try:
            said = as_ours(choice)
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{place}: {printable(repr(choice), 60)} has no word here") from None
        found[said if isinstance(said, str) else ",".join(said)] = None
    return {"values": list(found), "scale": "names"}


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
    if "max_length" not in reading.content.setdefault("data", {}):
        if (length := defaults["max_length"]) is not None:
            reading.put("data.max_length", length)
            said = f"{length} is {main.kind.title}'s own default"
        else:
            said = f"the model's own in {main.kind.title}, 512 here"
        reading.notes.append(f"data.max_length: not in the file; {said}")
    if "targets" not in training:
        reading.notes.append("training.targets: not in the file; all linear modules here (all-linear)")
    if "max_steps" in training and training.pop("epochs", None) is not None:
        reading.notes.append("epochs: left out, as max_steps says how long a training is")
    reading.content["standard"] = standard


def _data(reading: _Reading, source: Source, output: Path) -> None:
    settings = source.settings
    given = datasets.listed(settings)
    if given:
        told: list[list[str]] = [[] for _ in given]
        sources = [
            datasets.train_source(item, source, output, notes.append)
            for item, notes in zip(given, told, strict=True)
        ]
        files = all(isinstance(one, str) for one in sources)
        reading.put("data.train", sources if files and len(sources) > 1 else sources[0])
        reading.notes += [note for notes in (told if files else told[:1]) for note in notes]
        if len(sources) > 1 and not files:
            names = ", ".join(map(datasets.place_of, given))
            reading.notes.append(
                f"data: {len(given)} datasets ({names}); the first is named, as several have to be files: "
                "save them and name them in one list"
            )
    else:
        reading.put("data.train", "train.jsonl")
        reading.notes.append(
            "data.train: train.jsonl: no dataset is named; put the file there or name yours (docs/data.md)"
        )
    shapes = [item["type"] for item in given if isinstance(item, dict) and item.get("type")]
    if shapes:
        named = printable(", ".join(dict.fromkeys(map(repr, shapes))), 120)
        reading.notes.append(f"data: its rows are of type {named} there; see docs/data.md")
    for key in ("val_set_size", "val_size"):
        share = settings.get(key)
        if isinstance(share, float) and 0 < share < 1:
            reading.put("data.validation_fraction", share)
        elif share is not None:
            reading.notes.append(
                f"{key}: {share}; data.validation_fraction is 0.1, as choosing takes some rows"
            )
    for key in ("eval_dataset", "validation_datasets", "test_datasets"):
        items = datasets.items_of(settings.get(key))
        split = "test" if key == "test_datasets" and source.kind is KINDS["oumi"] else "validation"
        if items and (found := datasets.files_of(items, source, output)):
            reading.put(f"data.{split}", found[0] if len(found) == 1 else found)
        elif items:
            reading.notes.append(f"{key}: {printable(repr(settings[key]), 60)}; name a file in data.{split}")
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
