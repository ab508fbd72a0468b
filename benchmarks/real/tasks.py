"""Three tasks of real text, made from what Debian installs; nothing of them is kept in the repository.

    python benchmarks/real/tasks.py            # writes them into the cache and shows some rows

* `sections`: what a Debian package is, in a line; choose its section, one of 14. From Debian's package list.
* `records`: name and line of a Debian package; write its role and language as JSON. From Debian's package
  list and its tags (debtags.debian.org).
* `hyphens`: a word; write it with hyphens where a line may break. Nouns of WordNet, patterns of Debian's
  `hyphen-en-us`.

Debian's package lists are free to copy and to change, each description under its package's free licence.
WordNet 3.0 (Princeton University, 2006) may be used, copied and changed with its notice. All come through
apt, without root rights; each task's `provenance.json` has checksums. No two rows of a task have one prompt,
or are about packages of one source.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from fetch import CACHE, Missing, say

from loracle.text.files import write_atomically

SIZES = {"train": 600, "validation": 200, "test": 500}
LONGEST = 90  # characters of a prompt, so that most rows have fewer than 48 tokens
WORD = (5, 8)  # letters of a word to hyphenate
SEED = 12

K = TypeVar("K", str, tuple[str, str])  # what tells kinds of rows apart

SECTIONS = (
    *("admin", "database", "editors", "electronics", "games", "graphics", "mail"),
    *("math", "net", "science", "sound", "text", "video", "web"),
)
ROLES = {"devel-lib", "documentation", "plugin", "program", "shared-lib"}
LANGUAGES = ("c", "c++", "java", "lisp", "ocaml", "perl", "python")


@dataclass(frozen=True)
class Row:
    """An example, and what it is about: a source of packages or a gloss, which has one row in a task."""

    prompt: str
    completion: str
    subject: str


@dataclass(frozen=True)
class Task:
    """A task: how rows are made, in what files they end, and how they are scored."""

    name: str
    skill: str
    metric: str
    material: str
    licence: str
    rows: Callable[[], list[Row]]
    choices: tuple[str, ...] = ()
    longest: int | None = None  # tokens of an answer, at most

    @property
    def folder(self) -> Path:
        """Where its files are, in the cache."""
        return CACHE / "tasks" / self.name

    def file(self, split: str) -> Path:
        """The rows of a split."""
        return self.folder / f"{split}.jsonl"


# -- Debian's packages ------------------------------------------------------------------------------


def packages() -> list[dict[str, str]]:
    """The fields of every package that apt knows, by name; raises `Missing` where there is no apt."""
    try:
        text = _run("apt-cache", "dumpavail")
    except (OSError, subprocess.CalledProcessError):
        raise Missing("no package list: the tasks need Debian or a system made from it, with apt") from None
    found = [_fields(stanza) for stanza in text.split("\n\n") if stanza.strip()]
    if len(found) < 20_000:
        raise Missing(f"apt knows {len(found):,} packages only; run `apt-get update` first")
    return sorted(found, key=lambda package: package["Package"])


def _fields(stanza: str) -> dict[str, str]:
    lines = re.sub(r"\n[ \t]+", " ", stanza).splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _line(package: Mapping[str, str]) -> str:
    return " ".join(package.get("Description", "").split())


def _source(package: Mapping[str, str]) -> str:
    return package.get("Source", package["Package"]).split()[0]


def section_rows() -> list[Row]:
    """What packages are, and their sections; a section's rows as evenly as there are."""
    rows = defaultdict(list)
    for package in packages():
        section, line = package.get("Section", ""), _line(package)
        if section in SECTIONS and 15 <= len(line) <= LONGEST:
            rows[section].append(Row(f"{line}\nSection:", f" {section}", _source(package)))
    return _evenly(rows)


def record_rows() -> list[Row]:
    """Names and lines of packages, and what Debian's tags (debtags.debian.org) say of role and language."""
    rows = defaultdict(list)
    for package in packages():
        tags = {tag.strip() for tag in package.get("Tag", "").split(",")}
        roles = {tag[6:] for tag in tags if tag.startswith("role::")}
        languages = {tag[16:] for tag in tags if tag.startswith("implemented-in::")}
        prompt = f"{package['Package']} - {_line(package)}"
        if len(roles) == 1 == len(languages) and roles < ROLES and len(prompt) <= LONGEST:
            role, language = *roles, *languages
            if language in LANGUAGES:
                record = json.dumps({"role": role, "language": language})
                rows[role, language].append(Row(f"{prompt}\nRecord:", f" {record}", _source(package)))
    return _evenly(rows)


# -- words ------------------------------------------------------------------------------------------


def hyphen_rows() -> list[Row]:
    """Nouns of WordNet, and where the patterns of Debian's `hyphen-en-us` let a line break."""
    import pyphen

    nouns = _installed("wordnet-base", "/usr/share/wordnet/index.noun").read_text(encoding="utf-8")
    patterns = _installed("hyphen-en-us", "/usr/share/hyphen/hyph_en_US.dic")
    breaks = pyphen.Pyphen(filename=str(patterns), left=2, right=3)
    rows = []
    for line in nouns.splitlines():
        word = line.partition(" ")[0]
        if re.fullmatch(f"[a-z]{{{WORD[0]},{WORD[1]}}}", word):
            hyphenated = breaks.inserted(word)
            if "-" in hyphenated:
                rows.append(Row(f"{word}\nHyphenated:", f" {hyphenated}", word))
    return _shuffled(rows)


# -- rows to files ----------------------------------------------------------------------------------


def _installed(package: str, file: str) -> Path:
    """A file of a Debian package: as installed, or out of the package, which is fetched into the cache."""
    kept = CACHE / "debian" / Path(file).name
    for known in (Path(file), kept):
        if known.is_file():
            return known
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run("apt-get", "download", package, cwd=folder)
            (archive,) = Path(folder).glob("*.deb")
            _run("dpkg-deb", "--extract", str(archive), folder)
        except (OSError, ValueError, subprocess.CalledProcessError):
            raise Missing(
                f"{file} is not here: `apt-get install {package}`, or a system with apt that can fetch it"
            ) from None
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes((Path(folder) / file.lstrip("/")).read_bytes())
    return kept


def _run(*command: str, cwd: str | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout


def _shuffled(rows: Sequence[Row]) -> list[Row]:
    return [rows[i] for i in np.random.default_rng(SEED).permutation(len(rows))]


def _one_a_subject(kinds: Mapping[K, Sequence[Row]]) -> dict[K, list[Row]]:
    """Subjects that have rows of several kinds keep one of them, by chance."""
    every = _shuffled([row for _, rows in sorted(kinds.items()) for row in rows])
    chosen = {row.subject: row for row in every}
    return {kind: [row for row in rows if chosen[row.subject] is row] for kind, rows in kinds.items()}


def _evenly(kinds: Mapping[K, Sequence[Row]]) -> list[Row]:
    """One row a subject: one of each kind, then a second of each, to the end of the longest."""
    parts = [_shuffled(rows) for _, rows in sorted(_one_a_subject(kinds).items())]
    ranked = [(rank, n, row) for n, rows in enumerate(parts) for rank, row in enumerate(rows)]
    return [row for _, _, row in sorted(ranked, key=lambda item: item[:2])]


def split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """As many rows as `SIZES` says, shuffled; rows whose prompt has several answers are left out.

    Raises:
        Missing: there are fewer.
    """
    answers = defaultdict(set)
    for row in rows:
        answers[row.prompt].add(row.completion)
    distinct = list({row.prompt: row for row in rows if len(answers[row.prompt]) == 1}.values())
    needed = sum(SIZES.values())
    if len(distinct) < needed:
        raise Missing(f"{len(distinct):,} rows were made, {needed:,} are needed")
    chosen = iter(_shuffled(distinct[:needed]))
    return {name: list(islice(chosen, size)) for name, size in SIZES.items()}


TASKS = {
    task.name: task
    for task in (
        Task(
            "sections",
            "to tell what a program is for",
            "choice_accuracy",
            "Debian's package list",
            "DFSG-free, each description under its package's licence",
            section_rows,
            SECTIONS,
        ),
        Task(
            "hyphens",
            "to see the letters and syllables of a word",
            "exact_match",
            "WordNet's nouns, Debian's hyphenation patterns",
            "WordNet 3.0; the patterns' own, free (package hyphen-en-us)",
            hyphen_rows,
            longest=10,
        ),
        Task(
            "records",
            "to write a record about a text",
            "exact_match",
            "Debian's package list and tags",
            "DFSG-free, each description under its package's licence",
            record_rows,
            longest=20,
        ),
    )
}


def prepare(task: Task) -> Path:
    """Writes a task's files into the cache where they are not there yet; its folder.

    Raises:
        Missing: the material is not here and cannot be fetched.
    """
    provenance = task.folder / "provenance.json"
    if provenance.is_file():
        return task.folder
    say(f"making the task {task.name} from {task.material}")
    parts = split(task.rows())
    task.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        lines = (json.dumps({"prompt": r.prompt, "completion": r.completion}) + "\n" for r in rows)
        write_atomically(task.file(name), "".join(lines))
    write_atomically(provenance, json.dumps(_provenance(task), indent=1) + "\n")
    return task.folder


def _provenance(task: Task) -> dict[str, Any]:
    return {
        "task": task.name,
        "skill": task.skill,
        "metric": task.metric,
        "material": task.material,
        "licence": task.licence,
        "sizes": SIZES,
        "sha256": {name: hashlib.sha256(task.file(name).read_bytes()).hexdigest() for name in SIZES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=f"of {', '.join(TASKS)}")
    for name in parser.parse_args().tasks:
        folder = prepare(TASKS[name])
        print(f"\n{folder}")
        for line in TASKS[name].file("train").read_text(encoding="utf-8").splitlines()[:5]:
            print(f"  {line}")


if __name__ == "__main__":
    main()
