"""Prompts: what a config reads like, and what a broken file says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from loracle.errors import PromptError
from loracle.language.prompt import PROMPTS, load_prompt, spell, versions
from loracle.records.space import Knob, SearchSpace, default_space, paper_space

FACTS = ROOT / "docs" / "lora-facts.md"


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_versions() -> None:
    assert versions() == ["derived-v1", "lora-v1", "plain-v1"]


@pytest.mark.parametrize("version", ["derived-v1", "lora-v1", "plain-v1"])
def test_text_is_prefix_and_body_and_every_candidate_reads_differently(version: str) -> None:
    space = default_space()
    prompt = load_prompt(version, space, n_examples=1000)
    configs = [space.config(int(index)) for index in space.candidates]
    assert prompt.version == version
    assert prompt.text(configs[7]) == prompt.prefix + prompt.body(configs[7])
    assert len({prompt.body(config) for config in configs}) == len(configs)


def test_plain_prompt_states_names_and_values_in_the_published_order() -> None:
    space = paper_space()
    config = space.config(
        space.index({"rank": 16, "alpha": 8, "dropout": 0.1, "batch_size": 32, "learning_rate": 5e-5})
    )
    prompt = load_prompt("plain-v1", space)
    assert prompt.text(config) == "rank=16\nalpha=8\ndropout=0.10\nbatch_size=32\nlearning_rate=5.0e-05"


def test_domain_prompt_states_derived_quantities_and_the_size_of_a_trial() -> None:
    space = default_space()
    config = {"rank": 16, "alpha_ratio": 2, "dropout": 0.0, "batch_size": 32, "learning_rate": 2e-4}
    prompt = load_prompt("lora-v1", space, n_examples=1000, epochs=2)
    assert "1000 examples" in prompt.prefix
    assert "alpha=32, alpha/rank=2" in prompt.body(config)
    assert "alpha*learning_rate=10^-2.19" in prompt.body(config)
    assert "examples, and" not in load_prompt("lora-v1", space).prefix
    steps = load_prompt("derived-v1", space, n_examples=1000, epochs=2).body(config)
    assert "2^6.0 optimizer steps" in steps  # 2,000 / 32 rounded up: 63


def test_every_sentence_cites_facts_that_exist() -> None:
    known = {
        int(number) for number in re.findall(r"^(\d+)\. ", FACTS.read_text(encoding="utf-8"), re.MULTILINE)
    }
    content = yaml.safe_load((PROMPTS / "lora-v1.yaml").read_text(encoding="utf-8"))
    sentences = [*content["introduction"], *(one for own in content["knobs"].values() for one in own)]
    assert len(sentences) > 15
    for sentence in sentences:
        text, facts = (sentence, []) if isinstance(sentence, str) else (sentence["say"], sentence["facts"])
        assert set(facts) <= known, text
        assert facts or "{examples}" in text, f"cites nothing: {text}"


def test_only_the_knobs_of_the_space_are_explained_and_stated() -> None:
    space = SearchSpace((Knob("rank", (4, 8)), Knob("learning_rate", (1e-4, 1e-3), "log10")))
    prompt = load_prompt("lora-v1", space)
    assert "Dropout" not in prompt.prefix
    assert prompt.body({"rank": 4, "learning_rate": 1e-4}) == "learning_rate=10^-4.00\nrank=4"


def test_knobs_without_a_line_are_stated_first(tmp_path: Path) -> None:
    space = SearchSpace(
        (Knob("rank", (4, 8)), Knob("weight_decay", (0.0, 0.1)), Knob("beta", (1e-3, 1e-2), "log10"))
    )
    prompt = load_prompt(write(tmp_path, "version: v\nbody: ['rank={rank:d}']"), space)
    assert (
        prompt.body({"rank": 4, "weight_decay": 0.1, "beta": 1e-3})
        == "weight_decay=0.1\nbeta=10^-3.00\nrank=4"
    )


def test_names_are_stated_as_they_are_with_their_sentence(tmp_path: Path) -> None:
    about = {"cosine": "falls {along} half a wave"}
    space = SearchSpace(
        (Knob("schedule", ("cosine", "<b>50 %</b>"), about=about), Knob("rank", (8, 16), "log2"))
    )
    plain = SearchSpace((Knob("schedule", ("cosine", "<b>50 %</b>")), Knob("rank", (8, 16), "log2")))
    prompt = load_prompt("plain-v1", space, n_examples=100)
    first, *_, last = (prompt.body(space.config(int(index))) for index in space.candidates)
    assert "schedule=cosine (falls {along} half a wave)" in first.splitlines()
    assert "schedule=<b>50 %</b>" in last.splitlines()
    assert prompt.fingerprint != load_prompt("plain-v1", plain, n_examples=100).fingerprint
    own = write(tmp_path, "version: v\nbody: ['the rate follows a {schedule:g} at rank {rank}']")
    assert load_prompt(own, plain).body(plain.config(0)) == "the rate follows a cosine at rank 8"


def test_explanation_key_of_a_knob(tmp_path: Path) -> None:
    path = write(tmp_path, "version: v\nknobs: {how_wide: ['Wide is good.'], rank: ['Other.']}\nbody: []")
    space = SearchSpace((Knob("rank", (4, 8), explanation="how_wide"),))
    assert load_prompt(path, space).text({"rank": 4}) == "Wide is good.\nrank=4"


def test_alpha_and_alpha_ratio_are_interchangeable() -> None:
    prompt = load_prompt("lora-v1", default_space())
    shared = {"rank": 16, "dropout": 0.0, "batch_size": 32, "learning_rate": 2e-4}
    assert prompt.body({**shared, "alpha": 32}) == prompt.body({**shared, "alpha_ratio": 2})


def test_fingerprint_follows_the_text() -> None:
    space = default_space()
    prints = {
        load_prompt("lora-v1", space).fingerprint,
        load_prompt("plain-v1", space).fingerprint,
        load_prompt("lora-v1", space, n_examples=100).fingerprint,
        load_prompt("lora-v1", space, n_examples=200).fingerprint,
    }
    assert len(prints) == 4
    assert load_prompt("lora-v1", space).fingerprint in prints


@given(st.floats(1e-8, 1e8))
def test_log_spelling_reads_back(value: float) -> None:
    assert 10 ** float(spell(value, "log10").removeprefix("10^")) == pytest.approx(value, rel=0.012)
    assert 2 ** float(spell(value, "log2").removeprefix("2^")) == pytest.approx(value, rel=0.036)


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (2e-4, "log10", "10^-3.70"),
        (1, "log10", "10^0.00"),
        (0, "log10", "0"),
        (16, "log2", "2^4.0"),
        (0.5, "g", "0.5"),
        (16.0, "g", "16"),
        (16.0, "d", "16"),
        (0.05, ".2f", "0.05"),
        (5e-5, ".1e", "5.0e-05"),
    ],
)
def test_spelling(value: float, form: str, text: str) -> None:
    assert spell(value, form) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a", "is a mapping"),
        ("version: [", ":1: not valid YAML"),
        ("body: []", "version: a prompt file needs a version"),
        ("version: v\nbodies: []", "unknown key 'bodies'"),
        ("version: v\nbody: rank", "body: must be a list"),
        ("version: v\nheading: 3", "heading: must be text"),
        ("version: v\nknobs: [a]", "knobs: must map"),
        ("version: v\nknobs: {rank: text}", "knobs.rank: must be a list of sentences"),
        ("version: v\nknobs: {rank: [{says: a}]}", r"knobs.rank\[0\]: a sentence is"),
        ("version: v\nknobs: {rank: [{say: [a]}]}", r"knobs.rank\[0\].say: must be a string"),
        ("version: v\nknobs: {rank: [{say: a, facts: x}]}", r"knobs.rank\[0\].facts"),
        ("version: v\nbody: ['r={ranc}']", r"body\[0\]: placeholder {ranc} is not a knob"),
        ("version: v\nbody: ['r={rank']", r"body\[0\]: expected '}'"),
        ("version: v\nbody: ['r={rank:x}']", r"{rank:x}: a number is spelt as"),
        ("version: v\nbody: ['r={rank!r}']", r"{rank!r}: a number is spelt as"),
        ("version: v\nintroduction: ['{rank}']", r"introduction\[0\]: placeholder {rank} is not"),
    ],
)
def test_broken_files_are_refused_with_path_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(PromptError, match=complaint) as caught:
        load_prompt(path, default_space())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(
        PromptError, match=r"unknown prompt 'lora-v9'; give one of derived-v1, lora-v1, plain-v1"
    ):
        load_prompt("lora-v9", default_space())
    with pytest.raises(PromptError, match="there is no such prompt file"):
        load_prompt(tmp_path / "none.yaml", default_space())
    (tmp_path / "binary.yaml").write_bytes(b"\xff\x00")
    with pytest.raises(PromptError, match="is not UTF-8"):
        load_prompt(tmp_path / "binary.yaml", default_space())


def test_whole_number_form_refuses_fractions(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, "version: v\nbody: ['a={alpha:d}']"), default_space())
    with pytest.raises(PromptError, match=r"spells 0.5 as a whole number"):
        prompt.body({"rank": 1, "alpha_ratio": 0.5, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-4})
