"""Is this the same run: what has to stay the same for its trials to compare, and from when on.

A run is its settings, its space, and the *contents* of everything that its trials are made of: rows, weights,
tokenizer, chat template, prompt, prior, source of the user's own trainer. Settings stand in `config.yaml` of
the run folder and in the study; contents as hashes in the study, where `contents.py` puts them. Both are
compared whenever the run goes on, its final trainings included.

They bind from the first trial on that *counts*: one with a value, or with a failure that is its config's own
(`BINDING`). Before that nothing would be mixed, and whoever corrects a mistake just goes on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from loracle.config.data.sources import HubDataset
from loracle.config.placeholders import recorded_command
from loracle.config.settings import NO_DATA, RunConfig, SearchConfig
from loracle.errors import StudyError
from loracle.records.trial import FailureKind

# Failures that are a config's own: they say something about it, so its settings bind. A trial that crashed or
# was lost says nothing.
BINDING = frozenset({FailureKind.DIVERGED, FailureKind.OUT_OF_MEMORY, FailureKind.TIMEOUT})

# A run may be continued with other values of these; anything else would mix values that do not compare.
_MAY_CHANGE = (
    "output",
    "report_to",
    "threads",
    "search.trials",
    "search.past",
    "search.worth",
    "search.budget",
    "search.replicates",
    "search.finalists",
    "language.batch_size",
    "language.memory_gb",
    "training.micro_batch",
    "scoring.batch_size",
    "scoring.metrics",
    "scoring.allow_code_execution",
    "scoring.code.parallel",
    *("scoring.judge.url", "scoring.judge.key_variable", "scoring.judge.timeout"),
    *("scoring.judge.retries", "scoring.judge.parallel"),
    "execution.",
    "objective.time_limit",
)
# Where things are, and what `auto` finds there: the same may be elsewhere or be written out, for their
# contents are compared.
_PLACES = {
    *("data.train", "data.validation", "data.test", "data.template"),
    *("model", "language.model", "language.prompt"),
    *("objective.working_folder", "scoring.working_folder", "scoring.lm_eval.folder", "scoring.code.tests"),
    *("device", "dtype"),
}
# A dataset of the hub is a mapping, and so several settings.
_PLACES |= {
    f"data.{role}.{name}" for role in ("train", "validation", "test") for name in HubDataset.model_fields
}
_GUARD_PLACE = re.compile(r"guard\.[^.]+\.(data(\..*)?|batch_size|working_folder)")


@dataclass(frozen=True)
class Identity:
    """What a run is, as far as its study keeps it.

    Attributes:
        contents: hash of everything that trials are made of, by its name for people.
        settings: that must stay the same, whichever machine goes on; None: not compared.
        room: bytes by which a training may grow, which decide what is proposed; None: not known.
        machine: of several that share a storage, the one whose room this is.
        together: how many configs share a forward pass, see `Report`.
    """

    contents: Mapping[str, str]
    settings: Mapping[str, Any] | None = None
    room: float | None = None
    machine: str = ""
    together: int | None = None


def common_settings(config: RunConfig) -> dict[str, Any]:
    """Settings that have to be the same on all machines for their trials to compare: no paths, no secrets."""
    flat = _flat(config.model_dump(mode="json"))
    return {
        key: value
        for key, value in flat.items()
        if not _is_place(key) and not key.startswith((*_MAY_CHANGE, "objective.environment."))
    }


def training_settings(config: RunConfig) -> dict[str, Any]:
    """Settings that one training depends on, whatever searches, and whatever share of the data it takes."""
    return {
        key: value
        for key, value in common_settings(config).items()
        if (key.startswith(("data.", "training.", "scoring.")) or key == "search.seed")
        and key not in ("data.proxy", "data.proxy_minimum")
    }


def require_same_settings(config: RunConfig, recorded: RunConfig) -> None:
    """Holds a config against the one that was recorded when the run began.

    Raises:
        StudyError: they differ in more than a run may change.
    """
    before = _flat(recorded.model_dump(mode="json"))
    now = _flat(config.model_dump(mode="json"))
    changed = [
        key
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not _is_place(key) and not key.startswith(_MAY_CHANGE)
    ]
    if changed:
        raise StudyError(
            f"{config.output}: this run began {_difference(changed[0], before, now)}; its trials would not "
            "compare. Undo the change or use another output"
        )


def _difference(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, in words: a whole section where one side has none, so that a key is named that was
    written."""
    parts = key.split(".")
    for n in range(1, len(parts)):
        section = ".".join(parts[:n])
        there = [any(name.startswith(f"{section}.") for name in flat) for flat in (before, now)]
        if there == [False, True]:
            return f"without {section}, which it has now"
        if there == [True, False]:
            return f"with {section}, which it has not now"
    return f"with {key}={before.get(key)!r}, now {now.get(key)!r}"


def require_common_settings(where: str, name: str, known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Holds the settings of one of several processes against those of the first.

    Raises:
        StudyError: they differ.
    """
    known, now = _masked(known), _masked(now)  # earlier versions recorded the command as it was
    known = _defaults(now.keys() - known.keys()) | known  # and had fewer settings
    keys = sorted(
        key for key in known.keys() | now.keys() if not _is_place(key)
    )  # some were recorded earlier
    first = next((key for key in keys if known.get(key) != now.get(key)), None)
    if first is None:
        return
    raise StudyError(
        f"{where}: the run {name!r} was begun with {first}={known.get(first)!r}, here it is "
        f"{now.get(first)!r}; their trials would not compare. Undo the change or give the "
        "output another name"
    )


def require_same_space(where: str, known: Any, now: str) -> None:
    """Holds the fingerprint of a space against that of the beginning.

    Raises:
        StudyError: it is another space.
    """
    if known != now:
        raise StudyError(
            f"{where}: this run searched another space (fingerprint {str(known)[:40]}, now {now}); undo the "
            "change or use another output folder"
        )


def _is_place(key: str) -> bool:
    return key in _PLACES or _GUARD_PLACE.fullmatch(key) is not None


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return _masked(flat)


def _defaults(keys: Collection[str]) -> dict[str, Any]:
    """What these settings are where nobody gives them."""
    plain = _flat(RunConfig(model="", data=NO_DATA, search=SearchConfig(budget=None)).model_dump(mode="json"))
    return {key: plain[key] for key in keys if key in plain}


def _masked(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without secrets in the command, as another key is the same run; and with one name for two
    presets that choose alike."""
    masked = dict(flat)
    if command := flat.get("objective.command"):
        masked["objective.command"] = recorded_command(command)
    if flat.get("search.preset") == "thorough":
        masked["search.preset"] = "default"
    return masked
