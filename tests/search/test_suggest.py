"""What is suggested before any training: by the size of a model, read from its config.json alone."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import loracle
from loracle.errors import ConfigError, ModelError, SpaceError
from loracle.records.space import Knob, SearchSpace

# Ten families as their first releases were; what is left out are the defaults of transformers.
FAMILIES = {
    "llama": {},
    "mistral": {},
    "qwen2": {"tie_word_embeddings": True, "hidden_size": 896, "intermediate_size": 4864},
    "gemma": {},
    "phi3": {},
    "gpt2": {},
    "gpt_neox": {},
    "olmo2": {},
    "opt": {},
    "mixtral": {},
}

Loracle = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_with_a_config_alone_is_enough(family: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(family, **FAMILIES[family])
    config.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    with torch.device("meta"):
        truth = AutoModelForCausalLM.from_config(config).num_parameters()
    found = loracle.suggest(tmp_path)
    assert abs(math.log10(found.parameters / truth)) < 0.1  # a quarter
    assert found.config in [loracle.default_space().config(i) for i in loracle.default_space().candidates]
    assert found.better_than > 0.95


def test_ranks_at_or_above_the_models_width_are_left_out(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "llama", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=99
    )
    config.save_pretrained(tmp_path)
    found = loracle.suggest(tmp_path)
    assert loracle.suggest(parameters=found.parameters).config["rank"] >= 32  # else nothing is shown here
    configs = [found.config, *(one.config for one in found.alternatives)]
    assert all(one["rank"] < 32 for one in configs)


def test_a_large_model_takes_smaller_steps_than_a_small_one() -> None:
    def step(parameters: float) -> float:
        config = loracle.suggest(parameters=parameters).config
        return float(config["alpha"]) * float(config["learning_rate"])

    assert step(1e5) > 3 * step(3e8) > 3 * step(7e10)
    assert 0.004 <= step(7e9) <= 0.03  # alpha x learning rate of the best runs of 33 groups (fact 19)


def test_few_examples_take_a_small_batch() -> None:
    assert loracle.suggest(parameters=7e9, examples=500).config["batch_size"] == 8
    large = SearchSpace((Knob("batch_size", (64, 128), "log2"), Knob("learning_rate", (1e-4, 3e-4), "log10")))
    assert loracle.suggest(parameters=7e9, examples=50, space=large).config["batch_size"] == 64
    assert "rank" not in loracle.suggest(parameters=7e9, space=large).config


def test_alternatives_are_others_and_the_usual_settings_are_among_them() -> None:
    found = loracle.suggest(parameters=7e9, examples=200)
    configs = [found.config, *(other.config for other in found.alternatives)]
    assert len({json.dumps(config) for config in configs}) == len(configs) == 4
    usual = {other.name: other.config for other in found.alternatives}["usual settings"]
    assert [usual["rank"], usual["alpha"], usual["learning_rate"]] == [16, 32, 2e-4]


def test_what_is_no_model_or_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        loracle.suggest(tmp_path)
    with pytest.raises(ModelError, match="is no folder"):
        loracle.suggest(tmp_path / "gone")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        loracle.suggest(tmp_path)
    for content in ("[]", "{}", '{"hidden_size": "wide"}', '{"hidden_size": 0}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match="config"):
            loracle.suggest(tmp_path)
    for given in ({}, {"model": tmp_path, "parameters": 7e9}):
        with pytest.raises(ConfigError, match="a model's folder or how many parameters"):
            loracle.suggest(**given)  # type: ignore[arg-type]
    for wrong in (
        {"parameters": -1},
        {"parameters": "7b"},
        {"parameters": math.nan},
        {"parameters": 1e9, "examples": 0},
    ):
        with pytest.raises(ConfigError, match="is a positive number"):
            loracle.suggest(**wrong)  # type: ignore[arg-type]


def test_the_command_says_what_to_start_with_and_what_it_rests_on(loracle: Loracle) -> None:
    code, said, _ = loracle("suggest", "--parameters", "7e9", "--examples", "20000")
    assert code == 0
    lines = said.splitlines()
    assert lines[0].startswith("start with rank ")
    assert "7B parameters and 20,000 examples" in said
    assert "usual settings: rank 16, alpha 32" in said
    assert "How many examples there are decides the batches alone" in said
    assert "How many examples" not in loracle("suggest", "--parameters", "7e9")[1]
    told = json.loads(loracle("suggest", "--parameters", "7e9", "--json")[1])
    assert [told["parameters"], len(told["alternatives"])] == [7e9, 3]
    assert "No model of this size" in loracle("suggest", "--parameters", "2")[1]
    code, _, error = loracle("suggest", "/nowhere")
    assert code == 2
    assert "config.json" in error or "is no folder" in error


def test_no_torch_is_loaded_for_it() -> None:
    check = "import sys, loracle; loracle.suggest(parameters=7e9); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_what_nothing_is_known_of_is_no_suggestion() -> None:
    with pytest.raises(SpaceError, match=r"not used for lr: .* call it learning_rate; search with trials"):
        loracle.suggest(parameters=7e9, space=SearchSpace([Knob("lr", (1e-4, 1e-3)), Knob("width", (1, 2))]))  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="nothing is known of width"):
        loracle.suggest(parameters=7e9, space=SearchSpace((Knob("width", (1, 2)),)))
    some = SearchSpace((Knob("learning_rate", (1e-4, 1e-3), "log10"), Knob("width", (1, 2))))
    with pytest.warns(
        UserWarning, match="suggest: nothing is known of width; what it says of that is a guess"
    ):
        loracle.suggest(parameters=7e9, space=some)
