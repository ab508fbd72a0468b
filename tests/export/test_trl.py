"""TRL reads what is exported for it, and begins where Loracle began."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import copy_rows
from datasets import load_dataset
from finished_runs import finish
from trl import SFTTrainer
from trl.scripts.sft import make_parser

from loracle.export import export

# Defaults of TRL 1.16 that transformers 5.23 has begun to rename.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

PAIRS = copy_rows(60)
TEXTS = [{"text": f"{row['prompt']}{row['completion']}"} for row in PAIRS]
ASKED = [[("user", row["prompt"]), ("assistant", row["completion"])] for row in PAIRS]
TALKED = [[*turns, ("user", "again"), ("assistant", turns[1][1])] for turns in ASKED]
# Nothing behind an answer's end, and marked answers: TRL asks for marks where several turns count.
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<assistant>{% generation %}{{ m['content'] }}"
    "<eos>{% endgeneration %}{% else %}<user>{{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def chats(rows: list[list[tuple[str, str]]]) -> list[dict[str, Any]]:
    return [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in rows]


def parsed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """What `trl sft` makes of the file."""
    monkeypatch.chdir(folder)
    arguments = ["--config", "sft.yaml", "--use_cpu", "true", "--bf16", "false"]
    found: tuple[Any, ...] = make_parser().parse_args_and_config(arguments)
    return found


def test_trl_parses_the_yaml_and_every_setting_arrives(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = export(run, tmp_path / "out", "trl", devices=2, micro_batch=2)
    assert [path.name for path in made.files] == ["sft.yaml", "train.jsonl", "train.py"]
    script, settings, model, data = parsed(tmp_path / "out", monkeypatch)
    recipe = yaml.safe_load((run / "best" / "recipe.yaml").read_text())
    assert (model.lora_r, model.lora_alpha, model.lora_dropout) == (4, 8, 0.0)
    assert (model.use_peft, model.lora_target_modules, model.use_rslora) == (True, "all-linear", False)
    assert (settings.per_device_train_batch_size, settings.gradient_accumulation_steps) == (2, 2)
    for name in ("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm", "seed"):
        assert getattr(settings, name) == recipe["training"][name], name
    assert settings.lr_scheduler_type.value == recipe["training"]["lr_scheduler_type"]
    assert (settings.max_length, settings.completion_only_loss, settings.packing) == (48, True, False)
    assert data.datasets[0].data_files == "train.jsonl"
    assert script.dataset_train_split == "train"
    assert len((tmp_path / "out" / "train.jsonl").read_text().splitlines()) == recipe["trained"]["examples"]
    text = (tmp_path / "out" / "sft.yaml").read_text()
    for part in ("2 devices x micro-batch 2 x accumulation 2", "its own shuffle", "--num_processes 2"):
        assert part in text, part


@pytest.mark.parametrize(
    ("rows", "packing"),
    [
        pytest.param(PAIRS, False, id="pairs"),
        pytest.param(PAIRS, True, id="packed pairs"),
        pytest.param(chats(TALKED), False, id="long chats"),
        pytest.param(chats(TALKED), True, id="packed chats", marks=pytest.mark.slow),
        pytest.param(TEXTS, False, id="texts", marks=pytest.mark.slow),
        pytest.param(TEXTS, True, id="packed texts", marks=pytest.mark.slow),
        pytest.param(chats(ASKED), False, id="chats", marks=pytest.mark.slow),
    ],
)
def test_the_script_begins_with_the_loss_that_ours_began_with(
    rows: list[dict[str, Any]], packing: bool, tmp_path: Path, tiny_model: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").write_text(MARKED)
    space = {name: [value] for name, value in {"rank": 4, "alpha_ratio": 2, "dropout": 0.0}.items()}
    # All rows at once, which are fewer where they are packed: the order says nothing.
    space |= {"batch_size": [1, 48], "learning_rate": [1e-3]}
    knobs = {name: {"values": values} for name, values in space.items()}
    run = finish(
        tmp_path,
        model,
        rows,
        space={"base": "empty", "knobs": knobs},
        standard={"batch_size": 48},
        training={"epochs": 3},
        data={"proxy": 1.0, "packing": packing, "max_length": 96},
    )
    export(run, tmp_path / "out", "trl")
    script = runpy_script(tmp_path / "out" / "train.py")
    settings = script["settings"]
    assert settings.packing is packing
    settings.use_cpu, settings.dataloader_pin_memory = True, False
    trainer = SFTTrainer(
        model=str(model), args=settings, train_dataset=script["rows"], peft_config=script["lora"]
    )
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    ours = logged_losses(run)
    assert len(theirs) == len(ours) == 3
    assert theirs[0] == pytest.approx(ours[0], abs=1e-3)
    assert theirs[1:] == pytest.approx(ours[1:], abs=0.2)  # other starting weights, another warm-up


def logged_losses(run: Path) -> list[float]:
    """Of the steps of the final training."""
    lines = (run / "final" / "winner" / "log.txt").read_text().splitlines()
    return [float(line.split("\t")[1]) for line in lines if line[:1].isdigit()]


def runpy_script(path: Path) -> dict[str, Any]:
    """The names that the script makes, and its rows; what it would then train is left to the caller."""
    found = runpy.run_path(str(path))
    found["rows"] = load_dataset("json", data_files=str(path.with_name("train.jsonl")), split="train")
    return found
