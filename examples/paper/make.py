"""Writes the 36 configs of the published experiment (arXiv 2602.11171) from one table: `python make.py`."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent

MODELS = {
    "Llama-2-7B": "meta-llama/Llama-2-7b-hf",
    "Mistral-7B": "mistralai/Mistral-7B-v0.1",
    "Gemma-7B": "google/gemma-7b",
}
VARIANTS = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA"}
MODULES = "[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]"

# Of each kind: what it trains on, is chosen by and reported on; tokens of a row; how models are scored.
KINDS = {
    "math": (
        "the first 100,000 rows of MetaMathQA",
        "131 items of GSM8K and 500 of MATH to choose by",
        "the other 1,188 and 4,500 to report on",
        512,
        r"""
  metric: math_equivalence       # over the items of both sets; pip install 'loracle[math]'
  metrics: [loss]
  answer_pattern: "(?:The answer is:?|####) *(.+?)[ .]*$"
  max_new_tokens: 1024
""",
    ),
    "code": (
        "the first 100,000 rows of CodeFeedback in Python",
        "82 items of HumanEval and 163 of MBPP to choose by",
        "82 and 257 others to report on",
        512,
        r"""
  metric: pass_at_1              # over the items of both sets
  metrics: [loss]
  allow_code_execution: true     # runs what the model writes; a container without a network is safer
  code:
    tests: ../data/code/tests.jsonl
    program: "import collections, itertools, math, re\nfrom typing import *\n\n{answer}\n\n{tests}\n"
  max_new_tokens: 1024
""",
    ),
    "conversation": (
        "the first 100,000 rows of WizardLM-Evol-Instruct",
        "first turns of MT-Bench, 40 questions to choose by",
        "the other 40 to report on",
        2048,
        r"""
  metric: judge
  judge:
    url: http://localhost:8000/v1  # your endpoint of the kind of OpenAI's, and its model
    model: judge
    # key_variable: OPENAI_API_KEY
    prompt: |
      {prompt}
      {prediction}

      ---
      Above, an instruction and a response. How good is the response: is it correct, relevant, helpful,
      complete and clear? Answer in one line, with a number from {lowest} (useless) to {highest} (excellent):
      "Rating: 5".
  max_new_tokens: 1024
""",
    ),
}

CONFIG = """\
# {title}, {model}, {method}: the published experiment, arXiv 2602.11171. What differs from it, and the
# published figures, are in docs/paper.md. Written by examples/paper/make.py.
#   python examples/paper/prepare.py {kind}
#   loracle doctor examples/paper/{kind}/{name}.yaml && loracle tune examples/paper/{kind}/{name}.yaml

model: {hub}
dtype: bfloat16
output: ../runs/{kind}-{name}

data:
  train: ../data/{kind}/train.jsonl  # {train}
  validation: ../data/{kind}/validation.jsonl  # {validation}
  test: ../data/{kind}/test.jsonl  # {test}
  proxy: 0.1                     # a trial trains on 10 %
  validation_limit: null
  max_length: {length}

space: paper                     # 45,360 configs

training:
  epochs: 1
  variant: {variant}
  targets: {modules}
  schedule: cosine
  warmup_fraction: 0.03
  weight_decay: 0

scoring:{scoring}
language:
  model: Qwen/Qwen2-7B-Instruct  # reads the prompts, as published
  prompt: ../prompt.yaml
  learnable_token: true

search:
  preset: paper                  # the published method, step for step
  trials: 30
"""


def configs() -> dict[str, str]:
    """All configs, by their paths below this folder."""
    return {
        f"{kind}/{model.lower()}-{variant}.yaml": CONFIG.format(
            title=kind.capitalize(),
            model=model,
            method=method,
            kind=kind,
            name=f"{model.lower()}-{variant}",
            hub=hub,
            train=train,
            validation=validation,
            test=test,
            length=length,
            variant=variant,
            modules=MODULES,
            scoring=scoring,
        )
        for kind, (train, validation, test, length, scoring) in KINDS.items()
        for model, hub in MODELS.items()
        for variant, method in VARIANTS.items()
    }


if __name__ == "__main__":
    for path, text in configs().items():
        (FOLDER / path).parent.mkdir(exist_ok=True)
        (FOLDER / path).write_text(text, encoding="utf-8")
