"""The published experiment as configs: complete, and run with stand-ins for what they download."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest
from conftest import Loracle
from paper_stand_ins import PAPER, judge, make, script
from places import ROOT

from loracle.config.loading import load_config
from loracle.config.settings import build_space
from loracle.records.space import paper_space

CONFIGS = script("make").configs()
KINDS = ("math", "code", "conversation")
ONE_OF_EACH = ("math/llama-2-7b-pissa", "code/mistral-7b-dora", "conversation/gemma-7b-rslora")


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `examples/paper` with stand-ins for models, and with the data that `prepare.py` makes of
    stand-ins for datasets."""
    folder = tmp_path_factory.mktemp("paper")
    copy = make(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.chdir(folder / "hub")
        prepare = script("prepare", copy)
        for kind in KINDS:
            prepare.write(kind)
    return copy


@pytest.fixture
def ready(paper: Path) -> Iterator[Callable[..., Path]]:
    """The path of a config that names a judge who answers, with some of its words replaced."""
    with judge() as url:

        def write(name: str, replaced: dict[str, str]) -> Path:
            text = (paper / name).read_text(encoding="utf-8")
            changes = replaced | ({"http://localhost:8000/v1": url} if "conversation" in name else {})
            for old, new in changes.items():
                assert old in text
                text = text.replace(old, new)
            path = (paper / name).with_suffix(".ready.yaml")
            path.write_text(text, encoding="utf-8")
            return path

        yield write


def rows(paper: Path, kind: str, split: str) -> list[dict[str, str]]:
    lines = (paper / "data" / kind / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_files_are_what_the_table_says() -> None:
    assert len(CONFIGS) == 36
    written = {str(path.relative_to(PAPER)): path.read_text() for path in PAPER.glob("*/*.yaml")}
    assert {name: text for name, text in written.items() if name.partition("/")[0] in KINDS} == CONFIGS


def test_settings_are_the_published_ones() -> None:
    seen = set()
    for name in CONFIGS:
        config = load_config(PAPER / name)
        seen.add((name.partition("/")[0], config.model, config.training.variant))
        assert build_space(config.space) == paper_space()
        assert (config.search.preset, config.language.learnable_token, config.data.proxy) == (
            "paper",
            True,
            0.1,
        )
        assert config.language.prompt == str(PAPER / "prompt.yaml")
        assert (config.training.schedule, config.training.warmup_fraction) == ("cosine", 0.03)
        assert config.dtype == "bfloat16"
        assert config.data.max_length == (2048 if "conversation" in name else 512)
    assert len(seen) == 36


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_splits_share_no_prompt(paper: Path, kind: str) -> None:
    splits = [{row["prompt"] for row in rows(paper, kind, name)} for name in ("train", "validation", "test")]
    assert all(splits)
    assert sum(map(len, splits)) == len(set.union(*splits))


def test_math_is_asked_and_answered_as_published(paper: Path) -> None:
    assert len(rows(paper, "math", "validation")) == (40 + 7 * 6) // 10
    first, *_, last = rows(paper, "math", "test")
    assert first["prompt"].endswith("### Instruction:\nAnn has 0 pens and loses 1.\n\n### Response:")
    assert first["completion"] == "-1 are left.\n#### -1\nThe answer is: -1"
    assert last["completion"].endswith("\nThe answer is: \\frac{5}{7}")
    assert rows(paper, "math", "train")[1]["completion"].endswith("#### 3\nThe answer is: 3")


def test_boxed_answers_are_found() -> None:
    boxed = script("prepare").boxed
    assert boxed(r"so \boxed{1}, then $\boxed{\frac{1}{x^{2}}}$.") == r"\frac{1}{x^{2}}"
    assert boxed(r"it is \fbox{A}.") == "A"
    assert boxed(r"it is $\boxed 5$.") == "5"
    with pytest.raises(ValueError, match="no end"):
        boxed(r"it is \boxed{5.")


def test_only_python_is_taken_of_the_code(paper: Path) -> None:
    assert len(rows(paper, "code", "train")) == 40
    asked = [row["prompt"] for name in ("validation", "test") for row in rows(paper, "code", name)]
    assert [row["prompt"] for row in rows(paper, "code", "tests")] == asked


def test_what_is_not_downloaded_is_named(loracle: Loracle, tmp_path: Path) -> None:
    copy = make(tmp_path)
    for kind in KINDS:
        code, out, _ = loracle("doctor", copy / kind / "llama-2-7b-lora.yaml")
        assert code == 2
        assert f"data/{kind}/train.jsonl" in out


def test_the_example_with_gsm8k_reads_it_from_the_hub(
    paper: Path, loracle: Loracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, splits and model are stand-ins of the same names and columns."""
    example = ROOT / "examples" / "gsm8k.yaml"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    code, out, errors = loracle("doctor", example)
    assert code == 2
    assert "openai/gsm8k, main, split train cannot be read from the hub" in " ".join(
        f"{out} {errors}".split()
    )
    model = paper.parent / "models" / "meta-llama" / "Llama-2-7b-hf"
    path = tmp_path / "gsm8k.yaml"
    path.write_text(example.read_text().replace("meta-llama/Llama-3.2-1B", str(model)))
    monkeypatch.chdir(paper.parent / "hub")
    code, out, errors = loracle("doctor", path, "--json")
    said = [check["text"] for check in json.loads(out)["checks"]]
    assert code == 0, (errors, said)
    assert any("40 test rows are few" in text for text in said)


def passes(loracle: Loracle, path: Path) -> None:
    code, out, errors = loracle("doctor", path, "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert code == 0, (errors, checks)
    assert "45,360 configs" in checks["space"]["text"]
    assert checks["prompts"]["text"].startswith("paper-form-v1 read by ")
    assert checks["prompts"]["state"] == "ok"
    assert {"data", "model", "targets", "memory", "output"} <= set(checks)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_doctor_passes_one_of_each_kind(ready: Callable[..., Path], loracle: Loracle, name: str) -> None:
    passes(loracle, ready(f"{name}.yaml", {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_doctor_passes_all(ready: Callable[..., Path], loracle: Loracle, name: str) -> None:
    passes(loracle, ready(name, {}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["math/llama-2-7b-lora", "code/mistral-7b-dora", "conversation/gemma-7b-rslora"]
)
def test_one_of_each_kind_runs_from_end_to_end(
    paper: Path, ready: Callable[..., Path], loracle: Loracle, name: str
) -> None:
    shorter = {
        "trials: 30": "trials: 3\nexecution: {workers: 0}",
        "max_new_tokens: 1024": "max_new_tokens: 64",
    }
    code, _, errors = loracle("tune", ready(f"{name}.yaml", shorter))
    assert code == 0, errors
    run = paper / "runs" / name.replace("/", "-")
    outcomes = [json.loads(one.read_text()) for one in sorted(run.glob("trials/*/outcome.json"))]
    assert len(outcomes) == 3
    assert load_config(run / "config.yaml").language.learnable_token is True
    assert (run / "best" / "adapter_model.safetensors").is_file()


def test_the_document_names_what_the_configs_do() -> None:
    text = (ROOT / "docs" / "paper.md").read_text()
    for name in ("meta-math/MetaMathQA", "m-a-p/CodeFeedback-Filtered-Instruction", "62.93", "131"):
        assert name in text
