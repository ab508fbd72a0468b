"""The probe at load, on real models: what is refused, what is said, what is left as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import KINDS, save_kind
from conftest import copy_rows, save_tiny_model
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from small_tokenizers import make_tokenizer
from test_architectures import identities

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig, TrainingConfig
from loracle.config.training.plan import plan_training
from loracle.errors import ConfigError, LoracleError, ModelError
from loracle.run.checks import examine
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.loop import train_adapter
from loracle.training.model.adapter import attach, restored
from loracle.training.model.base_model import Base, load_base
from loracle.training.model.batching import observed
from loracle.training.model.probe import probe
from loracle.training.model.saved_adapter import SavedAdapter, two_sequences
from loracle.training.objective import TrainingObjective

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}
Write = Callable[..., Path]


def kind_of(name: str) -> Any:
    return next(kind for kind in KINDS if kind.type == name)


def base_of(folder: Path, **changes: Any) -> Base:
    content = {"model": str(folder), "data": {"train": "none"}, "device": "cpu", "dtype": "float32"}
    return load_base(RunConfig.model_validate(content | changes))


def encoded_for(base: Base) -> Encoded:
    examples = [Example(f"t:{i}", **row) for i, row in enumerate(copy_rows(8, 6))]
    return encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)


def found(base: Base, dropout: float = 0.1, **settings: Any) -> Any:
    tokens = encoded_for(base).tokens
    return probe(base, TrainingConfig(**settings), tokens, dropout=dropout, writes=True)


# -- experts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "qwen2_moe", "gpt_oss"])
def test_doctor_says_that_experts_stay_frozen(name: str, tmp_path: Path, run_config: Write) -> None:
    model = save_kind(kind_of(name), tmp_path / "model")
    checks = list(examine(load_config(run_config(model=str(model)))))
    assert "bad" not in {check.state for check in checks}
    (said,) = [check.text for check in checks if "belong to no linear module" in check.text]
    assert "experts.gate_up_proj (2)" in said
    assert "4 weights" in said or "6 weights" in said


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v3"])
def test_trials_leave_a_mixture_of_experts_as_it_was(name: str, tmp_path: Path, run_config: Write) -> None:
    model = save_kind(kind_of(name), tmp_path / "model")
    objective = TrainingObjective.from_config(load_config(run_config(model=str(model))))
    before = list(identities(objective.base.model))
    for dropout in (0.1, 0.0):
        outcome = objective.run(CONFIG | {"dropout": dropout}, seed=0, folder=tmp_path / f"{dropout}")
        assert outcome.value is not None
    assert list(identities(objective.base.model)) == before


def test_experts_that_are_named_are_trained_and_read_back(tmp_path: Path) -> None:
    base = base_of(save_kind(kind_of("qwen2_moe"), tmp_path / "model"))
    targets = ["q_proj", "experts.gate_up_proj", "experts.down_proj"]
    result = found(base, dropout=0.0, targets=targets)
    assert not result.dropout
    assert [notice.name for notice in result.notices] == []
    before = list(identities(base.model))
    encoded = encoded_for(base)
    saved = SavedAdapter(result.base, encoded.tokens, tmp_path / "best")
    with train_adapter(result.base, encoded, CONFIG, result.settings, seed=0) as trained:
        names = {name.partition(".lora_")[0] for name in trained.model.state_dict() if "lora_A" in name}
        assert any("experts" in name for name in names)
        saved.write(trained.model, trained.start)
    saved.finish()
    assert list(identities(base.model)) == before


def test_dropout_on_experts_is_refused_with_what_to_do(tmp_path: Path) -> None:
    base = base_of(save_kind(kind_of("mixtral"), tmp_path / "model"))
    with pytest.raises(ConfigError, match="remove the knob dropout") as caught:
        found(base, targets=["q_proj", "experts.down_proj"])
    for part in ("experts.down_proj", "dropout 0.1", "ParamWrapper"):
        assert part in str(caught.value)
    assert found(base).notices[0].name == "weights_frozen"  # the model is as it was


def test_an_adapter_half_way_on_nested_experts_comes_off(tmp_path: Path) -> None:
    base = base_of(save_kind(kind_of("mixtral"), tmp_path / "model"))
    before = list(identities(base.model))

    def stop() -> None:
        with restored(base):
            settings = TrainingConfig(targets=["experts.gate_up_proj", "experts.down_proj"])
            attach(base, plan_training(CONFIG, settings, 8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert list(identities(base.model)) == before


# -- what is left out, and what is refused ----------------------------------------------------------


def test_a_vision_tower_gets_no_adapter_and_is_named(tmp_path: Path) -> None:
    result = found(base_of(save_kind(kind_of("gemma3"), tmp_path / "model")))
    assert not any("vision" in name for name in result.settings.targets)
    (notice,) = result.notices
    assert notice.name == "modules_left_out"
    assert "vision_tower" in notice.text
    assert (notice.count or 0) >= 6


def test_named_targets_in_a_vision_tower_are_left_out_too(tmp_path: Path) -> None:
    result = found(base_of(save_kind(kind_of("gemma3"), tmp_path / "model")), targets=["q_proj", "v_proj"])
    assert sorted(result.settings.targets) == sorted(
        f"model.language_model.layers.{layer}.self_attn.{name}"
        for layer in (0, 1)
        for name in ("q_proj", "v_proj")
    )
    assert "no text reaches them" in result.notices[0].text


@pytest.mark.parametrize(
    ("targets", "line"),
    [
        ([], "training.targets: the list is empty"),
        (["layers"], "PEFT refuses this adapter .*ModuleList"),
        (["norm"], "PEFT refuses this adapter .*LlamaRMSNorm"),
    ],
)
def test_targets_that_cannot_be_adapted_are_one_line(
    targets: list[str], line: str, run_config: Write
) -> None:
    config = load_config(run_config()).model_copy(update={"training": TrainingConfig(targets=targets)})
    *_, last = examine(config)
    assert last.state == "bad"
    with pytest.raises(LoracleError, match=line) as caught:
        TrainingObjective.from_config(config)
    assert "\n" not in str(caught.value)


def test_targets_that_no_text_reaches_are_refused(tmp_path: Path) -> None:
    base = base_of(save_kind(kind_of("gemma3"), tmp_path / "model"))
    name = next(n for n, m in base.model.named_modules() if "vision" in n and isinstance(m, torch.nn.Linear))
    with pytest.raises(ConfigError, match="no gradient reaches any of the 1 adapted modules"):
        found(base, targets=[name])


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_variant_passes_and_leaves_no_hook(base: Base, variant: str, checkpointing: bool) -> None:
    before = list(identities(base.model))
    result = found(base, variant=variant, gradient_checkpointing=checkpointing)
    assert result.notices == ()
    assert result.settings.targets == "all-linear"
    assert list(identities(base.model)) == before
    with train_adapter(result.base, encoded_for(base), CONFIG, result.settings, seed=0):
        pass
    assert list(identities(base.model)) == before


def test_dora_of_a_row_of_zeros_is_refused_in_one_line_and_other_variants_train(
    tmp_path: Path, tiny_model: Path
) -> None:
    """As that for padding is in an embedding which the output layer shares: PEFT's first loss is NaN."""
    base = base_of(tiny_model)
    base.model.get_output_embeddings().weight.data[3] = 0.0
    base.model.save_pretrained(tmp_path / "model")
    base.tokenizer.save_pretrained(tmp_path / "model")
    base = base_of(tmp_path / "model")
    targets = ["q_proj", "lm_head"]
    with pytest.raises(ConfigError, match=r"\d rows of lm_head have nothing but zeros, and DoRA") as no:
        found(base, variant="dora", targets=targets)
    assert "\n" not in str(no.value)
    assert "lm_head" in found(base, variant="rslora", targets=targets).settings.targets
    assert found(base, variant="dora", targets=["q_proj"]).notices == ()


def test_checkpointing_that_a_model_lacks_is_refused(tmp_path: Path) -> None:
    base = base_of(save_kind(kind_of("fuyu"), tmp_path / "model"))
    base.model.supports_gradient_checkpointing = False
    with pytest.raises(ConfigError, match=r"training.gradient_checkpointing: .* does not support it"):
        found(base, gradient_checkpointing=True)


# -- batches ----------------------------------------------------------------------------------------


def test_a_model_that_mixes_the_rows_of_a_batch_reads_one_by_one(tmp_path: Path) -> None:
    base = base_of(save_tiny_model(tmp_path / "m"))
    mix = base.model.model.norm.register_forward_hook(lambda module, given, out: out - out.mean(0))
    result = observed(base, encoded_for(base).tokens, writes=False)
    assert result.reading == "single"
    mix.remove()
    assert observed(base, encoded_for(base).tokens, writes=True).reading == "padded"


def test_a_leak_from_later_tokens_is_found_however_it_comes(tmp_path: Path) -> None:
    base = base_of(save_tiny_model(tmp_path / "m"))
    base.model.model.norm.register_forward_hook(lambda module, given, out: out + out.roll(-1, dims=1))
    with pytest.raises(ModelError, match=r"LlamaForCausalLM\) looks at later tokens"):
        observed(base, encoded_for(base).tokens, writes=False)


# -- padding and saving -----------------------------------------------------------------------------


def test_a_pad_token_without_an_embedding_is_replaced(tmp_path: Path, run_config: Write) -> None:
    folder = save_tiny_model(tmp_path / "m")
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    assert tokenizer.pad_token_id == len(make_tokenizer())
    tokenizer.save_pretrained(folder)
    scoring = {"metric": "exact_match", "max_new_tokens": 8}
    config = load_config(run_config(model=str(folder), scoring=scoring))
    objective = TrainingObjective.from_config(config)
    assert objective.base.pad_id == tokenizer.eos_token_id
    assert objective.run(CONFIG, seed=0, folder=tmp_path / "trial").value is not None


def test_pissa_beyond_the_narrowest_layer_loads_with_the_line_of_the_readme(tmp_path: Path) -> None:
    base = base_of(save_tiny_model(tmp_path / "m"))  # keys and values have 16 features
    encoded = encoded_for(base)
    saved = SavedAdapter(base, encoded.tokens, tmp_path / "best")
    ids = two_sequences(base, encoded.tokens).inputs
    settings = TrainingConfig(variant="pissa", epochs=3)
    with train_adapter(base, encoded, CONFIG | {"rank": 24, "alpha": 48}, settings, seed=0) as trained:
        saved.write(trained.model, trained.start)
        with torch.inference_mode():
            logits = trained.model(input_ids=ids).logits
    saved.finish()
    read = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "best")).eval()
    with torch.inference_mode():
        torch.testing.assert_close(read(input_ids=ids).logits, logits, rtol=1e-3, atol=1e-3)
    assert json.loads((tmp_path / "best" / "adapter_config.json").read_text())["r"] == 48


def test_an_adapter_that_is_read_back_otherwise_is_not_put_in_place(base: Base, tmp_path: Path) -> None:
    encoded = encoded_for(base)
    saved = SavedAdapter(base, encoded.tokens, tmp_path / "best")
    with train_adapter(base, encoded, CONFIG, TrainingConfig(), seed=0) as trained:
        saved.write(trained.model, trained.start)
    file = tmp_path / "best.partial" / "adapter_model.safetensors"
    save_file({name: tensor * 0.5 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ModelError, match=r"best\.partial, read back by PEFT, does not do what was trained"):
        saved.finish()
    file.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"best\.partial cannot be loaded by PEFT"):
        saved.finish()
    assert not (tmp_path / "best").exists()
