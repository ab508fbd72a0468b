"""TRL: `sft.yaml` for `trl sft`, the same as a script, and the rows that were trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loracle.export.winner.files import (
    ROWS,
    TEMPLATE,
    header,
    python_literal,
    template_text,
    write_rows,
    write_texts,
    yaml_text,
)
from loracle.export.winner.reading import Winner
from loracle.export.winner.rows import (
    about_skipped_turns,
    plain_row,
    respelt_rows,
    single_answers,
    training_rows,
)

if TYPE_CHECKING:
    from loracle.training.dataset.shapes import Example

LOADS_MODELS = True

# trl.ModelConfig, TRL 1.16 (trl/trainer/model_config.py): what has another name there than in PEFT.
_NAMES = {
    "r": "lora_r",
    "target_modules": "lora_target_modules",
    "target_parameters": "lora_target_parameters",
    "modules_to_save": "lora_modules_to_save",
    "task_type": "lora_task_type",
}
_SAME = ("lora_alpha", "lora_dropout", "use_rslora", "use_dora")
_STATED = {"bias": "none", "init_lora_weights": True}  # ModelConfig has no word for them; these are its own

_SCRIPT = """\
{head}
from pathlib import Path

from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

HERE = Path(__file__).parent

lora = LoraConfig(
{lora})

settings = SFTConfig(
    output_dir=str(HERE / "adapter"),
{template}{settings})

if __name__ == "__main__":
    rows = load_dataset("json", data_files=str(HERE / "{rows}"), split="train")
    trainer = SFTTrainer(model={model!r}, args=settings, train_dataset=rows, peft_config=lora)
    trainer.train()
    trainer.save_model()
"""


def write(winner: Winner, folder: Path) -> list[str]:
    """Writes `sft.yaml`, `train.py` and `train.jsonl`. Raises LoracleError: see `training_rows`."""
    rows = training_rows(winner)
    texts, notes = settings(winner, rows)
    write_trl_rows(folder, respelt_rows(winner, rows, "TRL", reads_parts=True))
    write_texts(folder, texts)
    return notes


def settings(winner: Winner, rows: Sequence[Example]) -> tuple[dict[str, str], list[str]]:
    """The files without the rows, and what they cannot say."""
    notes = list(winner.beyond_trainer()) + list(trl_notes(rows))
    arguments, template = sft_settings(winner, rows), template_text(winner, rows)
    beyond_yaml = [
        f"{name}: {value!r} is in train.py alone; trl sft takes its default"
        for name, value in winner.lora.items()
        if name not in _NAMES and name not in _SAME and value != _STATED.get(name)
    ]
    launch = f"accelerate launch --num_processes {winner.split.devices} " if winner.split.devices > 1 else ""
    command = f"trl sft --config sft.yaml{f' --num_processes {winner.split.devices}' * bool(launch)}"
    head = header(winner, f"For `{command}`, from this folder.", [*beyond_yaml, *notes])
    options = {"dtype": winner.dtype, **_trust(winner)}
    script = _SCRIPT.format(
        head=header(winner, f"Run with `{launch or 'python '}train.py`.", notes),
        lora=python_literal(winner.lora),
        template=f'    chat_template_path=str(HERE / "{TEMPLATE}"),\n' * bool(template),
        settings=python_literal(arguments | {"model_init_kwargs": options}),
        rows=ROWS,
        model=winner.model,
    )
    if template:
        arguments["chat_template_path"] = TEMPLATE
    texts = {"sft.yaml": yaml_text(head, _yaml(winner, arguments)), "train.py": script}
    return texts | template, [*beyond_yaml, *notes]


def sft_settings(winner: Winner, rows: Sequence[Example]) -> dict[str, Any]:
    """Arguments of `trl.SFTConfig`, without the folder: loss mask, precision, schedule, batch, seeds."""
    masked: dict[str, Any] = {"completion_only_loss": True}
    if rows[0].form == "messages" and not single_answers(rows):
        masked = {"assistant_only_loss": True}
    elif rows[0].form == "text":
        masked = {"completion_only_loss": False}
    return {
        **winner.training,
        "data_seed": winner.training["seed"],
        "bf16": winner.dtype == "bfloat16",
        "max_length": winner.max_length,
        **({"packing": True, "packing_strategy": "bfd"} if winner.packs else {"packing": False}),
        **masked,
        "logging_steps": 1,
        "report_to": "none",
    }


def _yaml(winner: Winner, settings: Mapping[str, Any]) -> dict[str, Any]:
    lora = winner.lora
    named = {_NAMES[name]: lora[name] for name in _NAMES if name in lora}
    if isinstance(named["lora_target_modules"], str):  # a list of one word is that word to TRL
        named["lora_target_modules"] = [named["lora_target_modules"]]
    return {
        "model_name_or_path": winner.model,
        "dtype": winner.dtype,
        **_trust(winner),
        "output_dir": "adapter",
        "datasets": [{"path": "json", "data_files": ROWS}],
        "use_peft": True,
        **named,
        **{name: lora[name] for name in _SAME if name in lora},
        **settings,
    }


def _trust(winner: Winner) -> dict[str, Any]:
    return {"trust_remote_code": True} if winner.config.trust_remote_code else {}


def write_trl_rows(folder: Path, rows: Sequence[Example]) -> None:
    """Writes `train.jsonl` in the shapes that TRL reads."""
    single = single_answers(rows)
    write_rows(folder, (_row(row, single=single) for row in rows))


def trl_notes(rows: Sequence[Example]) -> Iterator[str]:
    """In words, what TRL counts of these rows and Loracle does not."""
    if rows[0].form == "messages":
        yield (
            "loss mask: what the chat template writes behind the end of an answer (a line break, in many) "
            "counts in TRL; Loracle leaves it out, and ends rows that end with no stop token of the model "
            "with its end-of-sequence token, which TRL does not"
        )
    if rows[0].form == "messages" and not single_answers(rows):
        yield (
            "loss mask: every turn of the assistant, by `assistant_only_loss`; TRL needs a chat template "
            "with {% generation %} for it, and swaps one in for the model families that it knows"
        )
    yield from about_skipped_turns(rows, "TRL")


def _row(row: Example, *, single: bool) -> dict[str, Any]:
    plain = plain_row(row)
    if row.form != "messages":
        return plain
    turns = plain["messages"]
    chat = {"prompt": turns[:-1], "completion": turns[-1:]} if single else plain
    return chat | dict(row.for_template)
