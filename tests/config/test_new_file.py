"""`loracle init`: what it writes resolves to what the user named."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from loracle.config.loading import load_config


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[..., str]) -> Callable[..., str]:
    """Runs `loracle init` in `tmp_path`; gives what it prints, or its errors where it is refused."""
    monkeypatch.chdir(tmp_path)
    return partial(said, "init")


@pytest.mark.parametrize(
    "config", ["a.yaml", "sub/a.yaml", "./sub/../sub/a.yaml", "new/deep/a.yaml", "linked/a.yaml"]
)
@pytest.mark.parametrize(
    "train", ["train.jsonl", "./train.jsonl", "data/train.jsonl", "linked/train.jsonl", "🦙 é.jsonl"]
)
def test_paths_lead_where_the_user_pointed(
    init: Callable[..., str], tmp_path: Path, config: str, train: str
) -> None:
    for folder in ("sub", "data", "base", "elsewhere/inner"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere" / "inner")
    (tmp_path / train).write_text("{}\n")
    for name in ("base", "./base", f"{tmp_path}/base"):
        said = init(config, "--train", train, "--model", name)
        assert "not there yet" not in said
        found = load_config(config)
        assert os.path.samefile(found.data.train, tmp_path / train)
        assert os.path.samefile(found.model, tmp_path / "base")
        os.unlink(config)
    assert (tmp_path / train).read_text() == "{}\n"


def test_hub_ids_and_absolute_paths_stay_as_they_are(init: Callable[..., str], tmp_path: Path) -> None:
    init("sub/a.yaml", "--train", f"{tmp_path}/x/train.csv")
    found = load_config("sub/a.yaml")
    assert found.model == "Qwen/Qwen3-0.6B"
    assert found.data.train == tmp_path / "x" / "train.csv"
    assert f'train: "{tmp_path}/x/train.csv"' in (tmp_path / "sub" / "a.yaml").read_text()


def test_data_are_beside_the_config_unless_named(init: Callable[..., str], tmp_path: Path) -> None:
    said = init("sub/a.yaml")
    assert "not there yet: sub/train.jsonl" in said
    assert load_config("sub/a.yaml").data.train == tmp_path / "sub" / "train.jsonl"
    (tmp_path / "sub" / "mine.csv").write_text("prompt,completion\n")
    init("sub/b.yaml", "--train", "mine.csv")  # it is there alone
    assert load_config("sub/b.yaml").data.train == tmp_path / "sub" / "mine.csv"


def test_what_is_not_there_is_said(init: Callable[..., str], tmp_path: Path) -> None:
    said = init("sub/a.yaml", "--train", "no.jsonl", "--model", "./no")
    assert said.splitlines()[:2] == ["not there yet: sub/../no.jsonl", "not there yet: sub/../no"]
    assert load_config("sub/a.yaml").data.train == tmp_path / "no.jsonl"


def test_nothing_is_overwritten(init: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("mine")
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nowhere" / "else")
    assert "a.yaml exists already; name another file" in init("a.yaml", refused=True)
    assert "a.yaml exists already" in init("a.yaml/b.yaml", refused=True)
    assert "exists already" in init("dangling.yaml", refused=True)
    assert "cannot be written: File name too long" in init("x" * 300, refused=True)
    assert (tmp_path / "a.yaml").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a.yaml", "dangling.yaml"]


def test_names_that_no_config_holds_are_refused(init: Callable[..., str], tmp_path: Path) -> None:
    for name in ("caf\udce9.jsonl", "a\x1b[31m.jsonl"):
        errors = init("a.yaml", "--train", name, refused=True)
        assert "a.yaml would not be readable: not valid YAML: the character" in errors
        assert "\x1b" not in errors
        assert errors.count("\n") == 1
    assert os.listdir(tmp_path) == []
