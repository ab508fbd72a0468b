"""llama.cpp: the merged model, and `model.gguf` made of it where llama.cpp's converter is found."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from loracle.errors import ModelError
from loracle.export import merged
from loracle.export.winner.reading import Winner

LOADS_MODELS = True

_CONVERTER = "convert_hf_to_gguf.py"  # of llama.cpp's own folder
_TYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
FILE = "model.gguf"


def write(winner: Winner, folder: Path) -> list[str]:
    """Writes `model/`, and `model.gguf`. Raises ModelError: the converter refuses the model."""
    notes = merged.write(winner, folder / "model")
    kind = _TYPES.get(winner.dtype, "auto")
    arguments = ["model", "--outfile", FILE, "--outtype", kind]
    converter = _found()
    if converter is None:
        command = shlex.join(["python", f"llama.cpp/{_CONVERTER}", *arguments])
        where = f"no {_CONVERTER} on the path, nor in the folder that $LLAMA_CPP names"
        return [*notes, f"{where}; with llama.cpp at hand, run in this folder: {command}"]
    done = subprocess.run(
        [sys.executable, str(converter), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or not (folder / FILE).exists():
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ModelError(f"{converter} does not convert this model: {last}")
    return [*notes, f"{FILE}: made by {converter} as {kind}; llama-quantize makes it smaller"]


def _found() -> Path | None:
    on_path = shutil.which(_CONVERTER)
    places = [Path(on_path)] if on_path else []
    if folder := os.environ.get("LLAMA_CPP"):
        places.append(Path(folder) / _CONVERTER)
    return next((place for place in places if place.is_file()), None)
