"""torchtune reads what is exported for it, builds the same model, and trains with the losses of ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import save_tiny_model
from finished_runs import finish
from other_trainers import ask
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from loracle.errors import LoracleError, StudyError
from loracle.export import export
from loracle.export.torchtune_parts.decoders import decoder_of, targets_of

# The recipe's own entry, as `tune run` calls it, with a device that is here.
RECIPE = """
import glob, json, re, runpy, sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from omegaconf import OmegaConf
from torchtune import config
config.validate(OmegaConf.load("config.yaml"))
sys.argv = ["tune", "--config", "config.yaml", "device=cpu", "log_peak_memory_stats=False"]
recipes = Path(find_spec("torchtune").origin).parents[1] / "recipes"
try:
    runpy.run_path(str(recipes / "lora_finetune_single_device.py"), run_name="__main__")
except SystemExit as end:
    assert not end.code
(log,) = glob.glob("adapter/logs/*.txt")
print(json.dumps(re.findall(r"loss:(\\S+) lr:(\\S+)", open(log).read())))
"""
LOGITS = """
import json, torch
from omegaconf import OmegaConf
from torchtune import config
found = {}
for name, own in OmegaConf.load("models.yaml").items():
    model = config.instantiate(own.model)
    state = config.instantiate(own.checkpointer).load_checkpoint()["model"]
    missing, strange = model.load_state_dict(state, strict=False)
    assert not strange and all("lora_" in key for key in missing), (name, missing, strange)
    tokens, ours = torch.load(f"{name}.pt")
    with torch.no_grad():
        found[name] = float((model.eval()(tokens) - ours).abs().max())
print(json.dumps(found))
"""
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def steps_of(run: Path) -> list[tuple[float, float]]:
    """Loss and learning rate of each step of the final training."""
    lines = (run / "final" / "winner" / "log.txt").read_text().splitlines()
    numbers = [line.split("\t") for line in lines if line[:1].isdigit()]
    return [(float(fields[1]), float(fields[2])) for fields in numbers]


def test_its_recipe_sees_our_batches_and_writes_an_adapter_that_peft_reads(
    run: Path, tmp_path: Path, tiny_model: Path
) -> None:
    made = export(run, tmp_path / "out", "torchtune")
    assert [path.name for path in made.files] == ["config.yaml", "loracle_parts.py", "train.jsonl"]
    theirs, ours = ask("torchtune", RECIPE, tmp_path / "out"), steps_of(run)
    assert float(theirs[0][0]) == pytest.approx(ours[0][0], abs=1e-3)
    assert [float(loss) for loss, _ in theirs] == pytest.approx([loss for loss, _ in ours], abs=0.1)
    # It logs the rate of the step that follows.
    assert [float(rate) for _, rate in theirs[:-1]] == pytest.approx([rate for _, rate in ours[1:]], rel=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokens = torch.arange(5, 15)[None]
    before = plain(tokens).logits
    tuned = PeftModel.from_pretrained(plain, str(tmp_path / "out" / "adapter" / "epoch_0"))
    assert (tuned(tokens).logits - before).abs().max() > 1e-3


@pytest.mark.slow
def test_its_recipe_sees_our_blocks_of_rows_that_are_learnt_whole(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", tie_word_embeddings=False)
    run = finish(
        tmp_path,
        model,
        space={
            "base": "empty",
            "knobs": {
                "rank": {"values": [4]},
                "alpha_ratio": {"values": [2]},
                "dropout": {"values": [0.0]},
                "batch_size": {"values": [3]},
                "learning_rate": {"values": [1e-3]},
            },
        },
        standard={"batch_size": 3},
        data={"packing": True, "proxy": 1.0, "max_length": 96, "loss_on": "all"},
        training={"epochs": 2.5, "schedule": "linear", "variant": "rslora"},
    )
    export(run, tmp_path / "out", "torchtune", micro_batch=1)
    theirs, ours = ask("torchtune", RECIPE, tmp_path / "out"), steps_of(run)
    assert float(theirs[0][0]) == pytest.approx(ours[0][0], abs=1e-3)
    assert [float(loss) for loss, _ in theirs] == pytest.approx([loss for loss, _ in ours], abs=0.1)
    assert [float(rate) for _, rate in theirs[:-1]] == pytest.approx([rate for _, rate in ours[1:]], rel=1e-4)


def test_its_models_give_the_logits_of_the_base_models(tmp_path: Path) -> None:
    kinds = {
        "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
        "llama3": LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=SCALED),
        "mistral": MistralConfig(**SIZES, tie_word_embeddings=False),
        "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=False),
        "qwen2-tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
        "gemma": GemmaConfig(**SIZES, head_dim=16),
    }
    models: dict[str, Any] = {}
    for name, config in kinds.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        for key, weights in model.named_parameters():
            if key.endswith("bias"):  # of Qwen, which begin at zero
                torch.nn.init.normal_(weights)
        model.save_pretrained(tmp_path / name)
        tokens = torch.randint(3, 60, (2, 30))
        with torch.no_grad():
            torch.save((tokens, model(tokens).logits), tmp_path / f"{name}.pt")
        read = AutoConfig.from_pretrained(tmp_path / name)
        decoder = decoder_of(name, read, 30)
        rank = {"lora_rank": 4, "lora_alpha": 8}
        targets = targets_of("all-linear", read, decoder)
        models[name] = {
            "model": {"_component_": decoder.builder, **decoder.numbers, **targets, **rank},
            "checkpointer": {
                "_component_": "torchtune.training.FullModelHFCheckpointer",
                "checkpoint_dir": str(tmp_path / name),
                "checkpoint_files": ["model.safetensors"],
                "model_type": decoder.checkpoint,
                "output_dir": str(tmp_path / f"{name}-out"),
            },
        }
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(models))
    found = ask("torchtune", LOGITS, tmp_path)
    assert found.keys() == kinds.keys()
    assert max(found.values()) < 1e-4, found


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (GPT2Config(), "builds no model of the type gpt2 .*; it builds llama, mistral, qwen2, gemma"),
        (Gemma2Config(), "builds no model of the type gemma2"),
        (MistralConfig(**SIZES, sliding_window=16), "attends to 16 tokens of 30"),
        (LlamaConfig(**SIZES, head_dim=16), "it has heads of 16"),
        (LlamaConfig(**SIZES, attention_bias=True), "no bias, and it has attention_bias"),
        (LlamaConfig(**SIZES, hidden_act="gelu"), "the activation silu, and it has gelu"),
        (
            LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
            r"scales them otherwise \(linear\)",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else value.model_type,
)
def test_models_that_it_cannot_build_are_refused(config: Any, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        decoder_of("base", config, 30)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (
            ["q_proj", "gate_proj"],
            "all of down_proj, gate_proj, up_proj or none, and the winner adapts gate_proj",
        ),
        (["gate_proj", "up_proj", "down_proj"], "without a module of attention"),
        (["model.layers.0.self_attn.q_proj"], "adapts q_proj in 1 of 2"),
        (["c_attn"], "no adapters of c_attn"),
        (["q_proj", "lm_head"], "no output layer of this model"),
    ],
)
def test_modules_that_it_cannot_adapt_are_refused(targets: list[str], said: str) -> None:
    config = LlamaConfig(**SIZES, tie_word_embeddings=True)
    with pytest.raises(StudyError, match=said):
        targets_of(targets, config, decoder_of("base", config, 30))


def test_modules_by_name_or_place_are_those_of_its_builders() -> None:
    config = LlamaConfig(**SIZES, tie_word_embeddings=False)
    decoder = decoder_of("base", config, 30)
    places = [f"model.layers.{i}.self_attn.o_proj" for i in range(2)]
    assert targets_of(["lm_head", "self_attn.v_proj", *places], config, decoder) == {
        "lora_attn_modules": ["v_proj", "output_proj"],
        "apply_lora_to_mlp": False,
        "apply_lora_to_output": True,
    }


def test_a_winner_that_it_has_no_words_for_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "best" / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    for changes, said in (
        ({"init_lora_weights": "pissa"}, "LoRA's usual weights, not with pissa"),
        ({"modules_to_save": ["lm_head"]}, r"linear layers alone \(modules_to_save: lm_head\)"),
    ):
        path.write_text(yaml.safe_dump(recipe | {"lora": recipe["lora"] | changes}))
        with pytest.raises(LoracleError, match=said):
            export(tmp_path / "run", tmp_path / "out", "torchtune")
    assert not (tmp_path / "out").exists()


def test_several_devices_share_the_batch(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out", "torchtune", devices=2, micro_batch=2)
    text = (tmp_path / "out" / "config.yaml").read_text()
    content = yaml.safe_load(text)
    assert "tune run --nproc_per_node 2 lora_finetune_distributed --config config.yaml" in text
    assert (content["batch_size"], content["gradient_accumulation_steps"]) == (2, 2)
    assert (content["model"]["lora_rank"], content["model"]["lora_alpha"]) == (4, 8)
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert all(len(row["tokens"]) == len(row["labels"]) for row in rows)
    assert content["dataset"]["count"] == len(steps_of(run)) * 8


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, GemmaConfig])
def test_recorded_settings_of_a_base_model_build_what_its_config_builds(kind: Any) -> None:
    """What a final training records, as JSON, is enough where no torch is loaded."""
    config = kind()
    recorded = SimpleNamespace(**json.loads(config.to_json_string(use_diff=False)))
    assert decoder_of("m", recorded, 64) == decoder_of("m", config, 64)
