"""Turns of several parts are exported so that each trainer makes our tokens of them, or are refused."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_rows
from datasets import load_dataset
from finished_runs import finish
from other_trainers import ask
from trl import SFTTrainer

from loracle.errors import LoracleError
from loracle.export import export

# Defaults of TRL 1.16 that transformers 5.23 has begun to rename.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

TURN = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<assistant>CONTENT<eos>"
    "{% else %}<user>CONTENT\n{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEXT = "{{ m['content'] }}"
PARTS = "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}"
EITHER = "{% if m['content'] is string %}" + TEXT + "{% else %}" + PARTS + "{% endif %}"
BOXED = EITHER.replace("{{ p['text'] }}", "({{ p['text'] }})")

AXOLOTL = """
import json, yaml
from transformers import AutoTokenizer
from axolotl.prompt_strategies.chat_template import StrategyLoader
from axolotl.utils.dict import DictDefault
config = DictDefault(yaml.safe_load(open("config.yaml")))
tokenizer = AutoTokenizer.from_pretrained(config.base_model)
strategy = StrategyLoader()(tokenizer, config, ds_cfg=dict(config.datasets[0]))
made = [strategy.tokenize_prompt(json.loads(line)) for line in open("train.jsonl")]
print(json.dumps([{"tokens": row["input_ids"], "labels": row["labels"]} for row in made]))
"""
LLAMA_FACTORY = """
import importlib.machinery, json, sys, types, yaml
sound = types.ModuleType("torchaudio")  # for voices alone, and 10 MB
sound.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
sys.modules["torchaudio"] = sound
from transformers import AutoTokenizer, HfArgumentParser
from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.parser import get_dataset_list
from llamafactory.data.processor import SupervisedDatasetProcessor
from llamafactory.data.template import get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments
content = yaml.safe_load(open("sft.yaml"))
data = HfArgumentParser(DataArguments).parse_dict(content, allow_extra_keys=True)[0]
tokenizer = AutoTokenizer.from_pretrained(content["model_name_or_path"])
template = get_template_and_fix_tokenizer(tokenizer, data)
(described,) = get_dataset_list(data.dataset, data.dataset_dir)
convert = get_dataset_converter(described.formatting, described, data)
rows = [convert(json.loads(line)) for line in open("train.jsonl")]
columns = {name: [row[name] for row in rows] for name in rows[0]}
processor = SupervisedDatasetProcessor(template=template, tokenizer=tokenizer, processor=None, data_args=data)
columns = {name: [[]] * len(rows) if some[0] is None else some for name, some in columns.items()}
made = processor.preprocess_dataset(columns)
print(json.dumps([{"tokens": a, "labels": b} for a, b in zip(made["input_ids"], made["labels"])]))
"""


def in_parts(text: str) -> list[dict[str, str]]:
    """A text, cut in two."""
    return [{"type": "text", "text": part} for part in (text[:2], text[2:])]


@pytest.fixture(scope="module")
def run_with(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Any:
    """A finished run on chats of which every other one has parts, with a template that reads them so."""
    done: dict[str, Path] = {}

    def make(content: str) -> Path:
        if content not in done:
            folder = tmp_path_factory.mktemp("parts")
            shutil.copytree(tiny_model, folder / "model")
            (folder / "model" / "chat_template.jinja").write_text(TURN.replace("CONTENT", content))
            rows = []
            for number, row in enumerate(copy_rows(60)):
                asked: Any = row["prompt"]
                said: Any = row["completion"] + row["completion"] + "abc"
                if number % 2:
                    asked, said = in_parts(asked), in_parts(said)
                turns = [("user", asked), ("assistant", said)]
                rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
            done[content] = finish(folder, folder / "model", rows)
        return done[content]

    return make


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def our_rows(run: Path, folder: Path) -> list[dict[str, Any]]:
    """Tokens and labels as the run learnt them."""
    export(run, folder, "torchtune")
    return rows_of(folder)


def trl_rows(folder: Path) -> list[dict[str, Any]]:
    """Tokens and labels as TRL makes them of what was exported."""
    found = runpy.run_path(str(folder / "train.py"))
    settings = found["settings"]
    settings.use_cpu, settings.dataloader_pin_memory = True, False
    trainer = SFTTrainer(
        model=str(folder.parent / "model"),
        args=settings,
        train_dataset=load_dataset("json", data_files=str(folder / "train.jsonl"), split="train"),
        peft_config=found["lora"],
    )
    return [{"tokens": row["input_ids"], "labels": row["labels"]} for row in trainer.train_dataset]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        pytest.param(TEXT, str, id="texts alone"),
        pytest.param(EITHER, str, id="either"),
        pytest.param(PARTS, list, id="parts alone"),
        pytest.param(BOXED, None, id="parts otherwise"),
    ],
)
def test_trl_learns_our_tokens(run_with: Any, content: str, kind: type | None, tmp_path: Path) -> None:
    run = run_with(content)
    shutil.copytree(run.parent / "model", tmp_path / "model")
    if kind is None:  # texts stay bare and parts get brackets, so rows of both cannot be alike
        for dialect in ("trl", "unsloth"):
            with pytest.raises(LoracleError, match=r"jsonl:2: .* export --to torchtune, which takes tokens"):
                export(run, tmp_path / dialect, dialect)
        return
    export(run, tmp_path / "out", "trl")
    export(run, tmp_path / "unsloth", "unsloth")
    written = rows_of(tmp_path / "out")
    assert {type(row[part][0]["content"]) for row in written for part in ("prompt", "completion")} == {kind}
    assert rows_of(tmp_path / "unsloth") == written
    assert trl_rows(tmp_path / "out") == our_rows(run, tmp_path / "ours")


@pytest.mark.parametrize(
    ("dialect", "package", "program"),
    [("axolotl", "axolotl", AXOLOTL), ("llamafactory", "llamafactory", LLAMA_FACTORY)],
)
@pytest.mark.parametrize("content", [TEXT, EITHER], ids=["texts alone", "either"])
def test_others_learn_our_tokens(
    run_with: Any, content: str, dialect: str, package: str, program: str, tmp_path: Path
) -> None:
    run = run_with(content)
    export(run, tmp_path / "out", dialect)
    assert {type(turn["content"]) for row in rows_of(tmp_path / "out") for turn in row["messages"]} == {str}
    assert ask(package, program, tmp_path / "out") == our_rows(run, tmp_path / "ours")


def test_a_template_that_the_run_gave_goes_along(tmp_path: Path, tiny_model: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    (tmp_path / "mine.jinja").write_text(TURN.replace("CONTENT", TEXT))
    turns = [(("user", row["prompt"]), ("assistant", row["completion"])) for row in copy_rows(60)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in some]} for some in turns]
    run = finish(tmp_path, model, rows, data={"template": "mine.jinja"})
    ours = our_rows(run, tmp_path / "ours")
    export(run, tmp_path / "out", "trl")
    assert "chat_template_path: chat_template.jinja" in (tmp_path / "out" / "sft.yaml").read_text()
    assert trl_rows(tmp_path / "out") == ours
    export(run, tmp_path / "unsloth", "unsloth")
    assert (
        'tokenizer.chat_template = (HERE / "chat_template.jinja")'
        in (tmp_path / "unsloth" / "train.py").read_text()
    )
    with pytest.raises(LoracleError, match=r"mine.jinja \(data.template\); export --to trl"):
        export(run, tmp_path / "factory", "llamafactory")
    export(run, tmp_path / "axolotl", "axolotl")
    assert ask("axolotl", AXOLOTL, tmp_path / "axolotl") == ours


@pytest.mark.parametrize("dialect", ["axolotl", "llamafactory"])
@pytest.mark.parametrize("content", [PARTS, BOXED], ids=["parts alone", "parts otherwise"])
def test_what_no_text_says_is_refused(run_with: Any, content: str, dialect: str, tmp_path: Path) -> None:
    with pytest.raises(LoracleError, match="export --to trl, or to torchtune"):
        export(run_with(content), tmp_path / "out", dialect)
    assert not (tmp_path / "out").exists()


def test_chats_that_do_not_take_turns_are_not_lost(tmp_path: Path, tiny_model: Path) -> None:
    """LLaMA-Factory leaves them out with a warning; torchtune is given our tokens of them."""

    def chat(asked: str, said: str) -> dict[str, Any]:
        turns = [("assistant", "abc"), ("user", asked), ("assistant", said)]
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    run = finish(tmp_path, tiny_model, [chat(row["prompt"], row["completion"]) for row in copy_rows(60)])
    with pytest.raises(
        LoracleError, match=r"jsonl:\d+: LLaMA-Factory .*: assistant, user, assistant; export"
    ):
        export(run, tmp_path / "llamafactory", "llamafactory")
    assert not (tmp_path / "llamafactory").exists()
    export(run, tmp_path / "torchtune", "torchtune")
    assert sorted(map(str, rows_of(tmp_path / "torchtune"))) == sorted(
        map(str, our_rows(run, tmp_path / "ours"))
    )
