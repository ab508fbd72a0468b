"""The winner in the words of each tool, and the texts of test items: what needs the run's data files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from loracle.config.data.sources import HubDataset
from loracle.config.settings import RunConfig
from loracle.errors import LoracleError
from loracle.export import settings_texts
from loracle.export.winner.reading import Winner
from loracle.report.findings.records import Recipe

_LARGEST = 50_000_000  # bytes of data that are read anew for a page

Texts = tuple[str | None, str | None]


class DataAgain:
    """The data of a finished run, read once more where they are small files and still what was trained on."""

    def __init__(self, config: RunConfig) -> None:
        self._winner = Winner(config.output)
        self._config = config
        self._there = self._readable()

    def recipes(self) -> tuple[tuple[Recipe, ...], Mapping[str, str]]:
        """Settings of the winner, PEFT's first; for a trainer of the user's own its `best.yaml`.

        And by export format, why it has none here.
        """
        output = self._config.output
        if self._config.objective is not None:
            return _file("your trainer", output / "best.yaml"), {}
        found = list(_file("peft", output / "best" / "recipe.yaml"))
        rows = self._winner.splits.train if self._there and self._config.data.loss_on != "all" else ()
        try:
            texts, without = settings_texts(output, rows)
        except (LoracleError, OSError, ValueError):  # no adapter yet: then there is no recipe either
            return tuple(found), {}
        found += [Recipe(name, file, text) for name, files in texts.items() for file, text in files.items()]
        return tuple(found), without

    def test_texts(self) -> Sequence[Texts]:
        """Prompt and reference of each test item, in order; empty where they cannot be known."""
        if not self._there or self._winner.provenance.get("data", {}).get("dropped", {}).get("test"):
            return ()
        found: list[Texts] = []
        for example in self._winner.splits.test:
            turns = [f"{turn.role}: {turn.content}" for turn in example.messages[:-1]]
            found.append((example.prompt or example.text or "\n".join(turns), example.reference))
        return found

    def _readable(self) -> bool:
        data = self._config.data
        if self._config.objective is not None:
            return False
        for source in (data.train, data.validation, data.test):
            if isinstance(source, HubDataset):  # reading it may need the network
                return False
            if source is not None and not _small(source if isinstance(source, tuple) else (source,)):
                return False
        try:
            fingerprint = self._winner.provenance.get("data", {}).get("fingerprint")
            return fingerprint is not None and self._winner.splits.fingerprint == fingerprint
        except (LoracleError, OSError, ValueError):  # the files are gone, or others
            return False


def _small(paths: Sequence[Path]) -> bool:
    try:
        sizes = [path.stat().st_size for path in paths]
    except OSError:
        return False  # a glob, or gone
    return sum(sizes) <= _LARGEST and not any(path.is_dir() for path in paths)


def _file(dialect: str, path: Path) -> tuple[Recipe, ...]:
    try:
        return (Recipe(dialect, path.name, path.read_text(encoding="utf-8")),)
    except (OSError, UnicodeDecodeError):
        return ()
