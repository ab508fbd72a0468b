"""Config files: every mistake is one line that names file, line and key, with a hint."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from loracle.config.loading import dump_config, load_config, parse_config
from loracle.config.settings import KnobConfig, RunConfig, SpaceConfig, build_space
from loracle.errors import ConfigError, SpaceError
from loracle.records.space import default_space, paper_space

MINIMAL = "model: some/model\ndata: {train: train.jsonl}\n"


def test_a_section_whose_keys_are_commented_out_says_nothing() -> None:
    empty = "training:\n  # epochs: 2\nsearch:\nspace:\n"
    assert parse_config(MINIMAL + empty) == parse_config(MINIMAL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("serch: {trials: 3}", ":3: unknown key 'serch'; did you mean 'search'?"),
        (
            "device_map: auto",
            ":3: device_map: no setting of Loracle; set execution.shard_model: true to divide",
        ),
        (
            "training: {fsdp: full_shard}",
            ":3: training.fsdp: no setting of Loracle; set execution.shard_model: true",
        ),
        (
            "execution:\n  deepspeed: ds.json",
            ":4: execution.deepspeed: no setting of Loracle; set execution.shard_",
        ),
        ("scoring: exact_match", ":3: scoring: has keys of its own; did you mean {metric: exact_match}?"),
        ("search: 5", ":3: search: has keys of its own: preset, trials, seed,"),
        ("search:\n  trails: 3", ":4: unknown key 'search.trails'; did you mean 'trials'?"),
        ("search:\n  zzz: 3", ":4: unknown key 'search.zzz'; known keys: preset, trials, seed, seed_configs"),
        (
            "space:\n  knobs:\n    rank:\n      value: [1]",
            ":6: unknown key 'space.knobs.rank.value'; did you",
        ),
        ("search: {trials: 0}", ":3: search.trials: input should be greater than 0; got 0"),
        (
            "search:\n  preset: papr",
            ":4: search.preset: input should be 'default', 'thorough', 'numeric', 'language' or 'paper'; got",
        ),
        ("training: {epochs: 1, max_steps: 9}", ":3: training: epochs and max_steps both say how long"),
        ("training: {optimizer: adam}", ":3: training.optimizer: input should be 'adamw', 'adamw_8bit', "),
        ("training: {schedule: cosin}", ":3: training.schedule: input should be 'cosine', 'linear', "),
        ("training: {schedule: polynomial, schedule_arguments: {powr: 2}}", "no argument 'powr' here; it"),
        ("training: {early_stopping: 0}", ":3: training.early_stopping.patience: input should be greater"),
        (
            "training: {early_stopping: true}",
            ":3: training.early_stopping: is a number of measurements (the patience), or its settings; leave",
        ),
        ("training: {lora_plus_ratio: 0.5}", ":3: training.lora_plus_ratio: input should be greater"),
        ("training: {epochs: many}", ":3: training.epochs: input should be a valid number"),
        (
            "training: {targets: 5}",
            ":3: training.targets: input should be 'all-linear' or input should be a valid list; got",
        ),
        ("scoring:\n  choices:\n    - a\n    - 7", ":6: scoring.choices.1: input should be a valid string"),
        ("output: a\noutput: b", ":4: not valid YAML: key 'output' is given twice"),
        ("search: {seed: 1, seed: 2}", ":3: not valid YAML: key 'seed' is given twice"),
        ("output: [a", "not valid YAML"),
        ("output: *nowhere", ":3: not valid YAML: found undefined alias"),
        (
            "output: !!python/object/apply:os.getcwd []",
            ":3: not valid YAML: the tag !!python/object/apply:os.getcwd has no",
        ),
        ("? [a, b]\n: 1", ":3: not valid YAML: the key a list or mapping is no word"),
        ("3: 4", ":3: not valid YAML: the key 3 is no word; put it in quotes"),
        ("loop: &loop [*loop]", ":3: not valid YAML: *loop stands within itself"),
        ("output: a\0b", "not valid YAML"),
        ("space: papr", ":3: space.base: input should be 'default', 'paper' or 'empty'; got 'papr'"),
        ("space: {knobs: {rank: {values: [8, 4]}}}", ":3: space: knob 'rank': values must increase"),
        (
            "space: {constraints: [rnk > 3]}",
            ":3: space: constraint 'rnk > 3': unknown name 'rnk'; did you mean",
        ),
        ("space: {remove: [rnk]}", ":3: space: space.remove: there is no knob 'rnk' in the default space"),
        ("space: {base: empty}", ":3: space: a search space needs at least one knob"),
        ("standard: {rank: 8}", ":3: standard: needs a value for dropout"),
        (
            "standard: {rank: 8, dropout: 0, learning_rate: 1e-4, batch_size: 8}",
            "needs either alpha or alpha_",
        ),
        ("standard: {rank: 0, alpha: 1, dropout: 0, learning_rate: 1e-4, batch_size: 8}", "rank is a whole"),
        (
            "standard: {rank: 8, alpha: 1, dropout: 0, learning_rate: 0, batch_size: 8}",
            "learning_rate is above 0",
        ),
        (
            "standard: {rank: 8, alpha: 1, dropout: 1, learning_rate: 1e-4, batch_size: 8}",
            "dropout is from 0 up",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(MINIMAL + text, source="a.yaml")
    line = str(error.value)
    assert line.startswith("a.yaml:")
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {train: a}", "a.yaml:1: model: field required"),
        ("data: {train: a}\nmodle: m", "a.yaml:2: unknown key 'modle'; did you mean 'model'?"),
        ("model: m\ndata:\n  proxy: 0.1", "a.yaml:2: data.train: field required"),
        ("", "a.yaml: a config is a mapping of keys to values"),
        ("- model: m", "a.yaml: a config is a mapping of keys to values"),
        ("a: b: c", "a.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("[" * 100_000, "a.yaml:1: nested deeper than 50 levels"),
    ],
)
def test_a_file_that_is_no_config_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(text, source="a.yaml")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet="model: data{}[]train,\n-&*!?'\"#|>%@`\t0e1.", max_size=60))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    try:
        parse_config(text)
    except ConfigError as error:
        lines = str(error).split("\n")
    else:
        lines = ["accepted"]
    assert len(lines) == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml:1: is not UTF-8 text"):
        load_config(tmp_path / "latin.yaml")


@pytest.mark.parametrize("spelling", ["1e-4", "1E-4", "1.0e-4", ".1e-3", "1.e-4", "+1e-4", "0.0001"])
def test_numbers_are_read_as_people_write_them(spelling: str) -> None:
    text = MINIMAL + f"search: {{seed_configs: [{{learning_rate: {spelling}}}]}}"
    assert parse_config(text).search.seed_configs == [{"learning_rate": 1e-4}]


def test_words_that_look_like_numbers_stay_words() -> None:
    assert parse_config("model: 1e5b\ndata: {train: '1e-4'}").model == "1e5b"


def test_defaults_are_as_documented() -> None:
    config = parse_config(MINIMAL)
    assert (config.search.trials, config.search.budget, config.data.trial_cost) == (30, 1.0, 0.2)
    assert config.data.proxy == 0.1
    standard = {"rank": 16, "alpha": 32, "dropout": 0.05, "learning_rate": 2e-4, "batch_size": 16}
    assert config.standard == standard
    assert not config.trust_remote_code


def test_dump_and_parse_give_the_same_config_back() -> None:
    text = MINIMAL + (
        "space:\n  base: paper\n  knobs: {rank: {values: [8, 16], scale: log2}}\n"
        "  remove: [dropout]\n  constraints: [alpha <= 64]\n"
        "training: {targets: [q_proj, v_proj], epochs: 0.5}\n"
        "scoring: {metric: exact_match, answer_pattern: '#### (\\S+)'}\n"
        "search: {preset: paper, trials: 7, seed_configs: [{rank: 8, learning_rate: 1e-4}]}\n"
        "standard: {rank: 8, alpha_ratio: 2, dropout: 0, learning_rate: 5e-05, batch_size: 16}\n"
    )
    for config in (parse_config(MINIMAL), parse_config(text)):
        again = parse_config(dump_config(config))
        assert again == config
        assert dump_config(again) == dump_config(config)
        yaml.safe_load(dump_config(config))  # any YAML reader reads it


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-12, 1e12))
def test_numbers_survive_the_round_trip_exactly(value: float) -> None:
    config = parse_config(MINIMAL).model_copy(
        update={"standard": {"learning_rate": value, "rank": 8, "alpha": 8}}
    )
    assert yaml.safe_load(dump_config(config))["standard"]["learning_rate"] in (value, repr(value))
    text = dump_config(RunConfig(model="m", data={"train": "t"}, execution={"time_limit": value}))  # type: ignore[arg-type]
    assert parse_config(text).execution.time_limit == value


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "words.yaml").write_text("version: mine\n")
    (tmp_path / "config.yaml").write_text(
        "model: base\noutput: runs/a\n"
        f"data: {{train: data/train.jsonl, test: {tmp_path}/elsewhere.jsonl}}\n"
        "language: {model: base, prompt: words.yaml}\n"
    )
    config = load_config(tmp_path / "config.yaml")
    assert config.model == str(tmp_path / "base")
    assert config.output == tmp_path / "runs" / "a"
    assert config.data.train == tmp_path / "data" / "train.jsonl"
    assert config.data.validation is None
    assert config.data.test == tmp_path / "elsewhere.jsonl"
    assert config.language.model == str(tmp_path / "base")
    assert config.language.prompt == str(tmp_path / "words.yaml")


def test_names_that_are_no_folders_stay_names(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: org/name\ndata: {train: t.jsonl}\n")
    config = load_config(tmp_path / "config.yaml")
    assert config.model == "org/name"
    assert (config.language.model, config.language.prompt) == ("same", "auto")


# -- spaces -------------------------------------------------------------------------------------------


def test_a_space_by_name_or_changed() -> None:
    assert build_space(parse_config(MINIMAL).space) == default_space()
    assert build_space(parse_config(MINIMAL + "space: paper").space) == paper_space()
    text = MINIMAL + "space: {base: paper, remove: [dropout], knobs: {rank: {values: [8, 16], scale: log2}}}"
    space = build_space(parse_config(text).space)
    assert space.names == ("rank", "alpha_ratio", "batch_size", "learning_rate")
    assert space["rank"].values == (8, 16)
    assert space.constraints == ()


def test_constraints_are_those_of_the_base_unless_given() -> None:
    assert build_space(SpaceConfig()).constraints == default_space().constraints
    assert build_space(SpaceConfig(constraints=[])).constraints == ()
    own = SpaceConfig(base="empty", knobs={"x": KnobConfig(values=[1, 2])}, constraints=["x > 1"])
    assert build_space(own).constraints == ("x > 1",)


def test_a_batch_that_no_trial_can_fill_is_refused() -> None:
    assert build_space(SpaceConfig(), batch_limit=100).batch_limit == 100
    with pytest.raises(
        SpaceError, match="impossible batch: the smallest batch_size of the space is 8, but a"
    ):
        build_space(SpaceConfig(), batch_limit=7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "objective: {function: t.py:train, direction: minimize}\nsearch:\n  budget: 1.0\n",
            "config:3: search.budget: is in full trainings, ",
        ),
        (
            "model: m\ndata: {train: t}\nguard: {g: t}\nsearch:\n  worth: auto\n",
            "config:5: search.worth: is",
        ),
        (
            "model: m\ndata: {train: t}\nsearch: {replicates: 9}\n",
            "config:3: search.replicates: input should be 'auto' or input should be less",
        ),
    ],
)
def test_what_concerns_several_sections_is_told_at_its_key_and_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(text)
    assert str(refused.value).startswith(said)


def test_a_mistake_in_the_trainer_is_told_and_not_what_follows_from_it() -> None:
    """Guards of one's own trainer have other keys than those of rows."""
    text = "objective: {function: t.py:train, direction: up}\nguard:\n  g: {key: held_out, base: 2.0}\n"
    with pytest.raises(ConfigError, match=r"^config:1: objective.direction: input should be 'maximize'"):
        parse_config(text)
