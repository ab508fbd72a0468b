"""What is exported for other trainers is read by their own parsers, and means what was trained."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import copy_rows
from finished_runs import finish
from other_trainers import ask
from transformers import AutoTokenizer, GenerationConfig

from loracle.errors import ModelError, StudyError
from loracle.export import export

AXOLOTL = """
import json, yaml
from axolotl.utils.schemas.config import AxolotlInputConfig as Schema
content = yaml.safe_load(open("config.yaml"))
assert not set(content) - set(Schema.model_fields), set(content) - set(Schema.model_fields)
print(json.dumps(Schema(**content).model_dump(mode="json", exclude_none=True), default=str))
"""
LLAMA_FACTORY = """
import importlib.machinery, json, sys, types, yaml
sound = types.ModuleType("torchaudio")  # for voices alone, and 10 MB
sound.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
sys.modules["torchaudio"] = sound
from transformers import AutoTokenizer, HfArgumentParser
from llamafactory.data.template import get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments, FinetuningArguments, GeneratingArguments
from llamafactory.hparams import ModelArguments, TrainingArguments
kinds = [ModelArguments, DataArguments, TrainingArguments, FinetuningArguments, GeneratingArguments]
content = yaml.safe_load(open("sft.yaml")) | {"use_cpu": True}
model, data, training, tuning, _ = HfArgumentParser(kinds).parse_dict(content)
tokenizer = AutoTokenizer.from_pretrained(model.model_name_or_path)
template = get_template_and_fix_tokenizer(tokenizer, data)
row = json.loads(open("train.jsonl").readline())
turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
print(json.dumps({
    "r": tuning.lora_rank, "alpha": tuning.lora_alpha, "target": tuning.lora_target,
    "rate": training.learning_rate, "warmup": training.warmup_steps,
    "batch": training.per_device_train_batch_size * training.gradient_accumulation_steps,
    "schedule": training.lr_scheduler_type.value, "tokens": template.encode_multiturn(tokenizer, turns),
    "file": json.load(open("dataset_info.json"))[data.dataset[0]]["file_name"],
}))
"""
OLLAMA = """
import json
from owist_modelfile_lint import lint
print(json.dumps([str(issue) for issue in lint("Modelfile", estimate_resources=False).issues]))
"""


@pytest.fixture
def changed(run: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the run whose recipe says something else of the adapter."""

    def change(**lora: Any) -> Path:
        copy = tmp_path / "changed"
        shutil.copytree(run, copy, dirs_exist_ok=True)
        path = copy / "best" / "recipe.yaml"
        recipe = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(recipe | {"lora": recipe["lora"] | lora}))
        return copy

    return change


def test_axolotl_reads_its_config(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out", "axolotl", devices=2, micro_batch=2)
    found = ask("axolotl", AXOLOTL, tmp_path / "out")
    assert (found["lora_r"], found["lora_alpha"], found["lora_dropout"]) == (4, 8, 0.0)
    assert (found["adapter"], found["lora_target_linear"]) == ("lora", True)
    assert (found["micro_batch_size"], found["gradient_accumulation_steps"]) == (2, 2)
    assert (found["learning_rate"], found["warmup_steps"], found["seed"]) == (1e-3, 1, 0)
    assert (found["train_on_inputs"], found["sequence_len"]) == (False, 48)
    (rows,) = found["datasets"]
    assert (rows["type"]["field_instruction"], rows["type"]["field_output"]) == ("prompt", "completion")


def test_llama_factory_reads_its_settings_and_makes_our_tokens(
    run: Path, tmp_path: Path, tiny_model: Path
) -> None:
    export(run, tmp_path / "out", "llamafactory", devices=2, micro_batch=2)
    found = ask("llamafactory", LLAMA_FACTORY, tmp_path / "out")
    assert (found["r"], found["alpha"], found["target"]) == (4, 8, ["all"])
    assert (found["rate"], found["warmup"], found["batch"], found["schedule"]) == (1e-3, 1, 4, "cosine")
    assert found["file"] == "train.jsonl"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    row = json.loads((tmp_path / "out" / "train.jsonl").read_text().splitlines()[0])
    completion = row["completion"].removesuffix("<eos>")
    ours = [tokenizer(row["prompt"])["input_ids"], [*tokenizer(completion)["input_ids"], 1]]
    assert found["tokens"] == [ours]


@pytest.fixture
def packed(run: Path, tmp_path: Path) -> Path:
    """A copy of the run whose recipe says that its rows were packed."""
    shutil.copytree(run, tmp_path / "packed")
    path = tmp_path / "packed" / "best" / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["sft"] |= {"packing": True, "packing_strategy": "bfd"}
    path.write_text(yaml.safe_dump(recipe | {"trained": recipe["trained"] | {"blocks": 17}}))
    return tmp_path / "packed"


def test_axolotl_packs_where_the_run_did(packed: Path, tmp_path: Path) -> None:
    made = export(packed, tmp_path / "out", "axolotl")
    found = ask("axolotl", AXOLOTL, tmp_path / "out")
    assert (found["sample_packing"], found["attn_implementation"]) == (True, "sdpa")
    assert found["attn_decontaminates_packing"]
    assert any("other rows than the 17 of Loracle" in note for note in made.notes)


@pytest.mark.slow  # ten seconds to import it
def test_llama_factory_packs_where_the_run_did(packed: Path, tmp_path: Path) -> None:
    export(packed, tmp_path / "out", "llamafactory")
    ours = '"packing": [data.packing, data.neat_packing, data.cutoff_len], "r":'
    found = ask("llamafactory", LLAMA_FACTORY.replace('"r":', ours, 1), tmp_path / "out")
    assert found["packing"] == [True, True, 48]  # tokens of a row, one less than it is told


def test_the_script_for_unsloth_calls_what_there_is(run: Path, tmp_path: Path) -> None:
    """Names of `FastLanguageModel` in unsloth/models/llama.py and loader.py (2026.10), which needs a GPU."""
    export(run, tmp_path / "out", "unsloth")
    tree = ast.parse((tmp_path / "out" / "train.py").read_text())
    calls = {
        node.func.attr: {keyword.arg for keyword in node.keywords}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert calls["from_pretrained"] == {
        *("model_name", "max_seq_length", "dtype", "load_in_4bit", "trust_remote_code"),
    }
    assert calls["get_peft_model"] == {
        *("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "init_lora_weights"),
        "random_state",
    }
    with pytest.raises(StudyError, match="trains on one device"):
        export(run, tmp_path / "two", "unsloth", devices=2)


def test_ollama_reads_the_modelfile(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    made = export(run, tmp_path / "out", "ollama")
    lines = [line for line in (tmp_path / "out" / "Modelfile").read_text().splitlines() if line[:1] != "#"]
    assert lines[:3] == ["FROM ./model", 'TEMPLATE """{{ .Prompt }}"""', 'PARAMETER stop "<eos>"']
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
    assert any(
        "convert_hf_to_gguf.py model --outfile model.gguf --outtype f32" in note for note in made.notes
    )
    assert ask("owist_modelfile_lint", OLLAMA, tmp_path / "out") == []


def test_ollama_stops_where_turns_end(tiny_model: Path, tmp_path: Path) -> None:
    """Also where that is another token than ends texts, and than the model's own. The recipe says what counts
    in chats."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m['role'] == 'assistant' %}<assistant>{{ m['content'] }}<user>"
        "{% else %}{{ m['content'] }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    ends = AutoTokenizer.from_pretrained(model).convert_tokens_to_ids(["<eos>", "<unk>", "<user>"])
    GenerationConfig(eos_token_id=ends[:2]).save_pretrained(model)
    turns = [[("user", row["prompt"]), ("assistant", row["completion"])] for row in copy_rows(60)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in some]} for some in turns]
    run = finish(tmp_path, model, rows)
    export(run, tmp_path / "out", "ollama")
    lines = (tmp_path / "out" / "Modelfile").read_text().splitlines()
    stops = {line for line in lines if line.startswith("PARAMETER stop")}
    assert stops == {f'PARAMETER stop "{token}"' for token in ("<eos>", "<unk>", "<user>")}
    assert GenerationConfig.from_pretrained(tmp_path / "out" / "model").eos_token_id == ends
    assert yaml.safe_load((run / "best" / "recipe.yaml").read_text())["sft"]["assistant_only_loss"] is True


@pytest.mark.parametrize("works", [True, False])
def test_a_converter_that_is_there_is_used(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    tools = tmp_path / "llama.cpp"
    tools.mkdir()
    ends = "open(sys.argv[3], 'w').write('GGUF')" if works else "sys.exit('Model Tiny is not supported')"
    (tools / "convert_hf_to_gguf.py").write_text(f"import sys\n{ends}\n")
    monkeypatch.setenv("LLAMA_CPP", str(tools))
    if not works:
        with pytest.raises(ModelError, match="Model Tiny is not supported"):
            export(run, tmp_path / "out", "gguf")
        assert not (tmp_path / "out").exists()
        return
    export(run, tmp_path / "out", "gguf")
    assert (tmp_path / "out" / "model.gguf").read_text() == "GGUF"


@pytest.mark.parametrize("dialect", ["axolotl", "llamafactory"])
def test_an_alpha_that_is_no_whole_number_is_refused_where_there_is_no_place(
    changed: Callable[..., Path], tmp_path: Path, dialect: str
) -> None:
    with pytest.raises(
        StudyError, match=r"whole numbers for lora_alpha, and the winner's is 0\.5; export --to trl"
    ):
        export(changed(lora_alpha=0.5), tmp_path / "out", dialect)
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]


def test_what_has_no_name_is_said(changed: Callable[..., Path], tmp_path: Path) -> None:
    run = changed(target_parameters=["experts.up"], use_dora=True)
    made = export(run, tmp_path / "out", "llamafactory")
    assert any("target_parameters: trained with ['experts.up']" in note for note in made.notes)
    assert "target_parameters" in (tmp_path / "out" / "sft.yaml").read_text()
    assert not any("use_dora" in note for note in made.notes)


@pytest.mark.parametrize("written", [True, False], ids=["new recipe", "recipe of epochs"])
def test_epochs_that_would_make_other_steps_are_exported_as_steps(
    changed: Callable[..., Path], tmp_path: Path, written: bool
) -> None:
    """48 rows in batches of 10: 2.5 epochs are 12 steps here, and ceil(2.5 x 5) = 13 there."""
    run = changed()
    path = run / "best" / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    length = {"max_steps": 12} if written else {"num_train_epochs": 2.5}
    training = {name: value for name, value in recipe["training"].items() if "epochs" not in name}
    training |= {"per_device_train_batch_size": 10, "gradient_accumulation_steps": 1} | length
    trained = recipe["trained"] | {"effective_batch": 10, "steps": 12, "epochs": 2.5}
    if not written:  # before recipes said so
        del trained["epochs"]
    path.write_text(yaml.safe_dump(recipe | {"training": training, "trained": trained}))
    for dialect in ("trl", "axolotl", "llamafactory"):
        made = export(run, tmp_path / dialect, dialect)
        content = yaml.safe_load(next(file for file in made.files if file.suffix == ".yaml").read_text())
        assert content["max_steps"] == 12
        assert not {"num_train_epochs", "num_epochs"} & content.keys()
        assert any("12 (max_steps) in the place of 2.5 epochs, of which it makes 13" in n for n in made.notes)


@pytest.mark.parametrize("dialect", ["trl", "axolotl", "llamafactory", "unsloth", "torchtune"])
def test_a_base_model_that_was_quantized_is_said_to_be_loaded_whole(
    changed: Callable[..., Path], tmp_path: Path, dialect: str
) -> None:
    run = changed()
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("\nquantization: null", "\nquantization: 4bit"))
    made = export(run, tmp_path / "out", dialect)
    assert any("trained in 4bit (quantization); these settings load it whole" in note for note in made.notes)
