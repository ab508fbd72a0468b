"""Unsloth: `train.py`, and the rows that were trained on. Names as in Unsloth 2026.10."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loracle.errors import StudyError
from loracle.export.trl import sft_settings, trl_notes, write_trl_rows
from loracle.export.winner.files import ROWS, TEMPLATE, header, python_literal, template_text, write_texts
from loracle.export.winner.reading import Winner
from loracle.export.winner.rows import respelt_rows, training_rows

if TYPE_CHECKING:
    from loracle.training.dataset.shapes import Example

LOADS_MODELS = True

# unsloth/models/llama.py, FastLanguageModel.get_peft_model.
_LORA = (
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "init_lora_weights", "bias"),
    *("target_modules", "target_parameters", "modules_to_save"),
)
_IMPLIED = {"task_type": "CAUSAL_LM", "use_dora": None}

_SCRIPT = """\
{head}
from pathlib import Path

from unsloth import FastLanguageModel  # before trl, transformers and peft: it changes them

import torch
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

HERE = Path(__file__).parent

if __name__ == "__main__":
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name={model!r},
        max_seq_length={length},
        dtype={dtype},
        load_in_4bit=False,
        trust_remote_code={trust},
    )
    model = FastLanguageModel.get_peft_model(
        model,
{lora}        random_state={seed},
    )
{template}    settings = SFTConfig(
        output_dir=str(HERE / "adapter"),
{settings}    )
    rows = load_dataset("json", data_files=str(HERE / "{rows}"), split="train")
    trainer = SFTTrainer(model=model, processing_class=tokenizer, args=settings, train_dataset=rows)
    trainer.train()
    model.save_pretrained(str(HERE / "adapter"))
    tokenizer.save_pretrained(str(HERE / "adapter"))
"""
_TEMPLATE = f'''    tokenizer.chat_template = (HERE / "{TEMPLATE}").read_text(encoding="utf-8")
'''


def write(winner: Winner, folder: Path) -> list[str]:
    """Writes `train.py` and `train.jsonl`. Raises LoracleError: Unsloth trains no such adapter."""
    rows = training_rows(winner)
    texts, notes = settings(winner, rows)
    write_trl_rows(folder, respelt_rows(winner, rows, "Unsloth", reads_parts=True))
    write_texts(folder, texts)
    return notes


def settings(winner: Winner, rows: Sequence[Example]) -> tuple[dict[str, str], list[str]]:
    """The script, and what it cannot say; raises as `write`."""
    lora = winner.lora
    if lora.get("init_lora_weights") == "eva":
        raise StudyError("Unsloth trains no adapters that begin with EVA; export --to trl")
    if winner.split.devices > 1:
        raise StudyError("--devices: Unsloth's script trains on one device; export --to trl for more")
    notes = [*winner.beyond_trainer(), *trl_notes(rows), *winner.unsaid(winner.training, _LORA, _IMPLIED)]
    if lora.get("lora_dropout"):
        notes.append("speed: with dropout above 0 Unsloth leaves its fast kernels out")
    dora = {"use_dora": True} if lora.get("use_dora") else {}
    known: dict[str, Any] = {name: lora[name] for name in _LORA if name in lora} | dora
    template = template_text(winner, rows)
    text = _SCRIPT.format(
        head=header(winner, "Run with `python train.py`.", notes),
        rows=ROWS,
        model=winner.model,
        length=winner.max_length,
        dtype="None" if winner.dtype == "auto" else f"torch.{winner.dtype}",
        trust=winner.config.trust_remote_code,
        lora=python_literal(known, " " * 8),
        seed=winner.training["seed"],
        template=_TEMPLATE * bool(template),
        settings=python_literal(sft_settings(winner, rows), " " * 8),
    )
    return {"train.py": text} | template, notes
