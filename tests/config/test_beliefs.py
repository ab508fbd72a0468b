"""`beliefs` of a config file: beside each other or under `knobs`, and refused with file, line and key."""

from __future__ import annotations

import pytest

from loracle.config.loading import parse_config
from loracle.errors import ConfigError
from loracle.records.space import UserBeliefs

MINIMAL = "model: some/model\ndata: {train: train.jsonl}\n"


def test_statements_stand_beside_the_configs_or_under_knobs() -> None:
    beside = "beliefs:\n  rank: at least 32\n  dropout: 0\n  bad: {rank: 4}\n"
    under = "beliefs: {knobs: {rank: at least 32, dropout: 0}, bad: [{rank: 4}]}\n"
    one, other = (parse_config(MINIMAL + text, "a.yaml").beliefs for text in (beside, under))
    assert one == other == parse_config(MINIMAL + beside.replace("32", "32.0"), "a.yaml").beliefs
    assert one.said == UserBeliefs.of({"rank": "at least 32", "dropout": 0}, bad=[{"rank": 4}])
    assert str(one.said) == "rank at least 32, dropout probably 0, 1 config known to be bad"
    assert not parse_config(MINIMAL, "a.yaml").beliefs.said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  rank: arround 32", "a.yaml:4: beliefs.rank: arround 32 is no belief; write around V, at least V"),
        ("  rank: [16, 32]", "a.yaml:4: beliefs.rank: input should be a value, or a belief in words"),
        ("  rank: true", "a.yaml:4: beliefs.rank: input should be a number or a name, not true"),
        ("  rank: between 4", "a.yaml:4: beliefs.rank: between 4: write between A and B, A below B"),
        ("  good: 16", "a.yaml:4: beliefs.good: input should be a valid list"),
        ("  good: [16]", "a.yaml:4: beliefs.good"),
        ("  bad: [{rank: true}]", "a.yaml:4: beliefs.bad"),
        ("  rank: 8\n  lr: around 1e-4", "a.yaml:5: beliefs.lr: lr is no knob of the space; it has rank"),
        ("  my-knob: 3", "a.yaml:4: beliefs.my-knob: my-knob is no knob of the space"),
        ("  rank: probably 33", "a.yaml:4: beliefs.rank: rank=33 is not in the space; its values are"),
        ("  learning_rate: around 0", "a.yaml:4: beliefs.learning_rate: learning_rate=0 cannot stand on a"),
        ("  good:\n  - {rank: 8}\n  - rank: 8\n    lr: 1", "a.yaml:6: beliefs.good.1: lr is no knob"),
        ("  bad: {lr: 1}", "a.yaml:4: beliefs.bad.0: lr is no knob"),
        ("  rank: 8\nsearch: {preset: paper}", "a.yaml:3: beliefs: the preset paper reads none; default, th"),
    ],
)
def test_what_is_none_is_refused_where_it_stands(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(f"{MINIMAL}beliefs:\n{text}\n", "a.yaml")
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)
