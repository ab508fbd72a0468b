"""Settings of other trainers, as their examples have them, become a config of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loracle.config.data.sources import HubDataset
from loracle.config.loading import load_config
from loracle.config.settings import RunConfig, build_space

# As examples/llama-3/lora-1b.yml of axolotl, in part.
AXOLOTL = """
base_model: NousResearch/Llama-3.2-1B
load_in_4bit: false
datasets: [{path: teknium/GPT4-LLM-Cleaned, type: alpaca}]
val_set_size: 0.1
adapter: lora
lora_model_dir:
sequence_len: 2048
sample_packing: true
lora_r: 16
lora_alpha: 32
lora_dropout: 0.05
lora_target_modules: [gate_proj, down_proj]
gradient_accumulation_steps: 2
micro_batch_size: 2
num_epochs: 1
optimizer: adamw_8bit
lr_scheduler: cosine
learning_rate: 0.0002
train_on_inputs: false
bf16: auto
gradient_checkpointing: true
warmup_steps: 10
special_tokens: {pad_token: "<|end_of_text|>"}
"""
# As in axolotl's guide to sweeps.
SWEEP = """
_:
  - {lora_r: 16, lora_alpha: 32}
  - {lora_r: 32, lora_alpha: 16}
learning_rate: [0.0003, 0.0006]
"""
# As examples/train_lora/llama3_lora_sft.yaml of LLaMA-Factory, in part.
LLAMA_FACTORY = """
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
trust_remote_code: true
stage: sft
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
"""
# As in oumi's guide to `oumi tune`.
OUMI = """
model: {model_name: HuggingFaceTB/SmolLM2-135M-Instruct, model_max_length: 2048, torch_dtype_str: bfloat16}
data:
  train: {datasets: [{dataset_name: yahma/alpaca-cleaned, split: "train[90%:]"}]}
tuning:
  n_trials: 10
  tunable_training_params:
    optimizer: {type: categorical, choices: [adamw_torch, sgd]}
    learning_rate: {type: loguniform, low: 1e-5, high: 1e-2}
    gradient_accumulation_steps: {type: int, low: 1, high: 8}
  tunable_peft_params:
    lora_r: {type: int, low: 4, high: 64}
  fixed_training_params: {trainer_type: TRL_SFT, per_device_train_batch_size: 2, max_steps: 1000}
"""
TRL = """
model_name_or_path: org/base
use_peft: true
lora_r: 32
lora_alpha: 0.5
lora_target_modules: [all-linear]
use_rslora: true
learning_rate: 3.0e-4
per_device_train_batch_size: 4
gradient_accumulation_steps: 4
warmup_steps: 0.05
datasets: [{path: json, data_files: train.jsonl}]
packing: false
completion_only_loss: true
"""

Imported = Callable[..., tuple[RunConfig, str]]


@pytest.fixture
def imported(tmp_path: Path, loracle: Callable[..., Any]) -> Imported:
    """The config that files become, and what is said of it on the screen."""

    def run(*texts: str) -> tuple[RunConfig, str]:
        paths = [tmp_path / f"theirs-{i}.yaml" for i in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        code, _, notes = loracle("import", *paths, "-o", tmp_path / "ours.yaml")
        assert code == 0, notes
        written = (tmp_path / "ours.yaml").read_text()
        plain = " ".join(line.removeprefix("#").strip() for line in written.splitlines() if line[:1] == "#")
        for note in notes.splitlines():
            assert note.removeprefix("note ") in plain  # the file says what the screen says
        return load_config(tmp_path / "ours.yaml"), notes

    return run


def test_axolotl(imported: Imported) -> None:
    config, notes = imported(AXOLOTL)
    assert config.model == "NousResearch/Llama-3.2-1B"
    standard = {"rank": 16, "alpha": 32, "dropout": 0.05, "learning_rate": 2e-4, "batch_size": 4}
    assert config.standard == standard
    training = config.training
    assert (training.epochs, training.optimizer, training.schedule) == (1.0, "adamw_8bit", "cosine")
    assert training.targets == ["gate_proj", "down_proj"]
    assert training.gradient_checkpointing
    assert (config.data.max_length, config.data.validation_fraction) == (2048, 0.1)
    assert config.data.packing
    for said in ("warmup_steps: 10 is", "special_tokens", "GPT4-LLM-Cleaned"):
        assert said in notes


def test_a_sweep_of_axolotl_becomes_the_space(imported: Imported) -> None:
    config, _ = imported(AXOLOTL, SWEEP)
    space = build_space(config.space)
    assert space["learning_rate"].values == (3e-4, 6e-4)
    assert (space["rank"].values, space["alpha"].values) == ((16, 32), (16, 32))
    assert "alpha_ratio" not in space.names


def test_llama_factory(imported: Imported) -> None:
    config, notes = imported(LLAMA_FACTORY)
    standard = {"rank": 8, "alpha": 16, "dropout": 0.0, "learning_rate": 1e-4, "batch_size": 8}
    assert config.standard == standard
    training = config.training
    assert (training.epochs, training.warmup_fraction, training.targets) == (3.0, 0.1, "all-linear")
    assert (config.dtype, config.trust_remote_code) == ("bfloat16", True)
    assert [path.name for path in config.data.train] == ["identity", "alpaca_en_demo"]  # type: ignore[union-attr]
    for said in ("max_samples: 1000", "template: llama3", "identity: is no", "alpha: not in the file; 16 is"):
        assert said in notes


def test_packing_is_imported_where_it_is_asked_for(imported: Imported, tmp_path: Path) -> None:
    assert not imported(LLAMA_FACTORY)[0].data.packing
    for keys, notes in (
        ("neat_packing: true", None),
        ("packing: true\nneat_packing: true", None),
        ("packing: true", "the examples of a row see those before them there"),
    ):
        (tmp_path / "ours.yaml").unlink()
        config, said = imported(f"{LLAMA_FACTORY}{keys}\n")
        assert config.data.packing
        assert (notes in said) if notes else "packing" not in said
    (tmp_path / "train.jsonl").write_text("")
    packed = TRL.replace("packing: false", "packing: true\npacking_strategy: wrapped")
    (tmp_path / "ours.yaml").unlink()
    config, said = imported(packed)
    assert config.data.packing
    assert "packing_strategy: wrapped: there rows may be cut" in said


def test_oumi_tune(imported: Imported) -> None:
    config, _ = imported(OUMI)
    space = build_space(config.space)
    assert space["rank"].values == (4, 8, 16, 32, 64)
    assert space["batch_size"].values == (2, 4, 8, 16)
    rates = space["learning_rate"].values
    assert (rates[0], rates[-1], len(rates)) == (1e-5, 1e-2, 8)
    assert (config.search.trials, config.training.max_steps, config.training.epochs) == (10, 1000, None)
    assert space["optimizer"].values == ("adamw", "sgd")


def test_trl_with_data_beside_it(imported: Imported, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("")
    config, notes = imported(TRL)
    assert config.standard is not None
    assert (config.standard["rank"], config.standard["alpha"]) == (32, 0.5)
    assert (config.standard["batch_size"], config.standard["dropout"]) == (16, 0.05)
    assert (config.training.variant, config.training.warmup_fraction) == ("rslora", 0.05)
    assert str(config.data.train) == str(tmp_path / "train.jsonl")
    assert "completion_only_loss" not in notes


def test_our_own_recipe_comes_back(imported: Imported) -> None:
    from loracle.report.recipe import recipe, recipe_text

    config = RunConfig.model_validate({"model": "org/base", "data": {"train": "train.jsonl"}})
    knobs = {"rank": 8, "alpha": 16, "dropout": 0.05, "batch_size": 20, "learning_rate": 1e-4}
    found, _ = imported(recipe_text(recipe(config, knobs, 1000)))
    assert found.standard == knobs
    assert (found.model, found.training.schedule, found.training.optimizer) == ("org/base", "cosine", "adamw")
    assert found.data.loss_on is None


@pytest.mark.parametrize(("loss_on", "chats"), [("completion", True), ("assistant", False), ("all", True)])
def test_what_a_recipe_has_counted_comes_back(loss_on: str, chats: bool, imported: Imported) -> None:
    from loracle.report.recipe import recipe, recipe_text

    data = {"train": "train.jsonl", "loss_on": loss_on}
    config = RunConfig.model_validate({"model": "org/base", "data": data})
    knobs = {"rank": 8, "alpha": 16, "dropout": 0.05, "batch_size": 20, "learning_rate": 1e-4}
    found, notes = imported(recipe_text(recipe(config, knobs, 1000, chats=chats)))
    assert found.data.loss_on == loss_on
    assert "rows: {" not in notes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TRL.replace("per_device_train_batch_size: 4\n", ""), 32),  # 8 is TRL's own
        (TRL.replace("_steps: 4", "_steps: '4'"), 16),
        (TRL.replace("gradient_accumulation_steps: 4\n", ""), 4),
        (LLAMA_FACTORY.replace("per_device_train_batch_size: 1\n", ""), 64),
        (AXOLOTL.replace("micro_batch_size: 2\n", ""), 2),  # 1 is axolotl's own
        (OUMI, 2),
        (OUMI.replace("per_device_train_batch_size: 2, ", "gradient_accumulation_steps: 4, "), 32),
    ],
)
def test_micro_batch_and_accumulation_are_the_effective_batch_wherever_they_stand(
    text: str, expected: int, imported: Imported
) -> None:
    config, _ = imported(text)
    assert config.standard is not None
    assert config.standard["batch_size"] == expected


def test_a_tuned_micro_batch_and_the_standard_have_the_same_accumulation(imported: Imported) -> None:
    text = OUMI.replace("gradient_accumulation_steps: {", "per_device_train_batch_size: {")
    config, _ = imported(text.replace("per_device_train_batch_size: 2,", "gradient_accumulation_steps: 2,"))
    assert config.standard is not None
    assert config.standard["batch_size"] == 16
    assert build_space(config.space)["batch_size"].values == (2, 4, 8, 16)


def test_both_factors_of_a_batch_that_is_tried_are_multiplied(imported: Imported) -> None:
    sweep = "micro_batch_size: [1, 2]\ngradient_accumulation_steps: [4, 16]\n"
    config, _ = imported(AXOLOTL, sweep)
    assert build_space(config.space)["batch_size"].values == (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AXOLOTL, None),
        (AXOLOTL.replace("train_on_inputs: false", "train_on_inputs: true"), "all"),
        (LLAMA_FACTORY + "train_on_prompt: true\n", "all"),
        (LLAMA_FACTORY + "mask_history: true\n", "completion"),
        (LLAMA_FACTORY + "mask_history: false\n", None),
        (TRL, None),
        (TRL.replace("only_loss: true", "only_loss: false"), "all"),
        # Of chats, the assistant's turns alone, those of a prompt included.
        (TRL.replace("only_loss: true", "only_loss: false\nassistant_only_loss: true"), "assistant"),
    ],
)
def test_what_the_loss_counts_is_kept(text: str, expected: str | None, imported: Imported) -> None:
    config, notes = imported(text)
    assert config.data.loss_on == expected
    assert "loss" not in notes


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (AXOLOTL + "fsdp_config: {fsdp_version: 2, reshard_after_forward: true}\n", "fsdp_config"),
        (LLAMA_FACTORY + "deepspeed: examples/deepspeed/ds_z3_config.json\n", "deepspeed"),
        (TRL + "fsdp: full_shard auto_wrap\n", "fsdp"),
    ],
)
def test_where_a_model_was_divided_it_is_said_how_it_is_here(imported: Imported, text: str, key: str) -> None:
    _, notes = imported(text)
    assert f"{key}: where the model has to be divided between GPUs, add execution.shard_model: true" in notes


def test_that_trl_counts_every_turn_of_a_chat_is_said(imported: Imported) -> None:
    assert (
        "data.loss_on: all counts all of them" in imported(TRL.replace("completion_only_loss: true", ""))[1]
    )


def test_several_files_and_those_to_evaluate_on(imported: Imported, tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        (tmp_path / name).touch()
    two = AXOLOTL.replace("teknium/GPT4-LLM-Cleaned", "a.jsonl").replace(
        "alpaca}]", "alpaca}, {path: b.jsonl}]"
    )
    config, notes = imported(two.replace("val_set_size: 0.1", "test_datasets: [{path: c.jsonl}]"))
    assert config.data.train == (tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert config.data.validation == tmp_path / "c.jsonl"
    assert "datasets" not in notes
    (tmp_path / "ours.yaml").unlink()
    config, notes = imported(two.replace("b.jsonl", "org/rows"))
    assert config.data.train == tmp_path / "a.jsonl"
    assert "2 datasets (a.jsonl, org/rows); the first is named" in notes


@pytest.mark.parametrize(
    ("steps", "expected"), [("0", 0.0), ("0.05", 0.05), ("10\nmax_steps: 200", 0.05), ("10", 0.03)]
)
def test_warm_up_steps_are_a_share_where_the_number_of_steps_is_known(
    steps: str, expected: float, imported: Imported
) -> None:
    config, notes = imported(AXOLOTL.replace("warmup_steps: 10", f"warmup_steps: {steps}"))
    assert config.training.warmup_fraction == expected
    assert ("is a number of steps" in notes) == (steps == "10")


@pytest.mark.parametrize(
    ("text", "said_of_it"),
    [
        ("a: 1\nb: 2\n", "of no kind that is read (oumi tune, axolotl"),
        ("- 1\n", "a mapping of keys to values"),
        ("a: [\n", "not valid YAML"),
        (SWEEP, "only sweeps"),
        (LLAMA_FACTORY.replace("finetuning_type: lora", "finetuning_type: full"), "finetuning_type is full"),
        (LLAMA_FACTORY.replace("stage: sft", "stage: dpo"), "rewards or preferences"),
        (TRL.replace("model_name_or_path: org/base", ""), "it names no model"),
        (TRL.replace("3.0e-4", "-3.0e-4"), "as a config of ours: standard: learning_rate is above 0"),
    ],
)
def test_what_cannot_be_imported_is_one_line_and_writes_nothing(
    tmp_path: Path, said: Callable[..., str], text: str, said_of_it: str
) -> None:
    (tmp_path / "theirs.yaml").write_text(text)
    errors = said("import", tmp_path / "theirs.yaml", "-o", tmp_path / "ours.yaml", refused=True)
    assert said_of_it in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "ours.yaml").exists()


def test_a_file_that_is_there_and_one_that_is_not(tmp_path: Path, said: Callable[..., str]) -> None:
    assert "cannot be read" in said("import", tmp_path / "none.yaml", "-o", tmp_path / "o.yaml", refused=True)
    (tmp_path / "o.yaml").write_text("mine")
    (tmp_path / "theirs.yaml").write_text(TRL)
    errors = said("import", tmp_path / "theirs.yaml", "-o", tmp_path / "o.yaml", refused=True)
    assert "exists already" in errors
    assert (tmp_path / "o.yaml").read_text() == "mine"


HUB = "teknium/GPT4-LLM-Cleaned"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (("", ""), HubDataset(hub=HUB)),
        (("type: alpaca", "name: en, split: 'train[:50%]', revision: v2"), None),
        (("path: teknium/GPT4-LLM-Cleaned", "path: rows/mine.jsonl"), "rows/mine.jsonl"),
        (("path: teknium/GPT4-LLM-Cleaned", "path: ./rows/mine"), "rows/mine"),
        (("path: teknium/GPT4-LLM-Cleaned", "path: json, data_files: [here.jsonl]"), "here.jsonl"),
    ],
)
def test_datasets_of_the_hub_and_files_are_told_apart(
    changes: tuple[str, str], expected: Any, imported: Imported, tmp_path: Path
) -> None:
    (tmp_path / "here.jsonl").touch()
    config, said = imported(AXOLOTL.replace(*changes))
    if expected is None:
        expected = HubDataset(hub=HUB, config="en", split="train[:50%]", revision="v2")
    if isinstance(expected, str):
        expected = tmp_path / expected
    assert config.data.train == expected
    assert ("is read from the hub" in said) == isinstance(expected, HubDataset)


def test_names_of_llama_factory_are_looked_up_where_it_keeps_them(imported: Imported, tmp_path: Path) -> None:
    text = LLAMA_FACTORY.replace("identity,alpaca_en_demo", "mine")
    assert imported(text)[0].data.train == tmp_path / "mine"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(
        '{"mine": {"hf_hub_url": "org/rows", "subset": "a"}}'
    )
    (tmp_path / "ours.yaml").unlink()
    assert imported(text)[0].data.train == HubDataset(hub="org/rows", config="a")
    (tmp_path / "data" / "mine.json").write_text("[]")
    (tmp_path / "data" / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}')
    (tmp_path / "ours.yaml").unlink()
    assert imported(text)[0].data.train == tmp_path / "data" / "mine.json"


def test_what_is_said_of_rows_elsewhere_is_told_and_no_file_is_lost(
    imported: Imported, tmp_path: Path
) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).touch()
    own = "path: json, data_files: [a.jsonl, b.jsonl], split: 'train[:9]', roles_to_train: [assistant]"
    config, said = imported(AXOLOTL.replace("path: teknium/GPT4-LLM-Cleaned", own))
    assert list(config.data.train) == [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for name in ("a.jsonl", "b.jsonl"):
        assert f"data: {name}: roles_to_train of it: not read here" in said
        assert f"data: {name}: split train[:9]: the whole file is read here" in said
    (tmp_path / "ours.yaml").unlink()
    (tmp_path / "dataset_info.json").write_text(
        '{"mine": {"file_name": "a.jsonl", "formatting": "sharegpt", "columns": {"messages": "turns"}}}'
    )
    config, said = imported(LLAMA_FACTORY.replace("identity,alpaca_en_demo", "mine"))
    assert config.data.train == tmp_path / "a.jsonl"
    assert "columns, formatting of it: not read here" in said


def test_splits_as_trl_and_oumi_name_them(imported: Imported, tmp_path: Path) -> None:
    trl = TRL.replace(
        "datasets: [{path: json, data_files: train.jsonl}]",
        "dataset_name: trl-lib/Capybara\ndataset_config: c\ndataset_train_split: train",
    )
    assert imported(trl)[0].data.train == HubDataset(hub="trl-lib/Capybara", config="c", split="train")
    (tmp_path / "ours.yaml").unlink()
    assert imported(OUMI)[0].data.train == HubDataset(hub="yahma/alpaca-cleaned", split="train[90%:]")
