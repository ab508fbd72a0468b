"""Ollama: a Modelfile over the merged model."""

from __future__ import annotations

import json
from pathlib import Path

from loracle.errors import StudyError
from loracle.export import gguf
from loracle.export.winner.files import header
from loracle.export.winner.reading import Winner
from loracle.export.winner.rows import ends_of_rows, training_rows

LOADS_MODELS = True


def write(winner: Winner, folder: Path) -> list[str]:
    """Writes `Modelfile` beside what `gguf` writes.

    Raises:
        LoracleError: see there; or a token that no Modelfile can hold.
    """
    form = training_rows(winner)[0].form
    stops = _stops(winner) if form == "messages" else [ends_of_rows(winner)[1]]
    if odd := [stop for stop in stops if '"' in stop or "\n" in stop]:
        raise StudyError(f"a Modelfile cannot hold the stop token {odd[0]!r}; export --to gguf")
    notes = gguf.write(winner, folder)
    made = (folder / gguf.FILE).exists()
    lines = [f"FROM ./{gguf.FILE if made else 'model'}"]
    if form == "messages":
        notes.append(
            "chat template: Ollama's templates are Go's, not Jinja's; it puts one of its own in the place of "
            "those that it knows. Compare `ollama show --template` with chat_template.jinja"
        )
    else:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines += ["PARAMETER temperature 0", f"PARAMETER num_ctx {winner.context}"]
    notes.append("temperature 0: as scores were measured; num_ctx: what the run trained and wrote at most")
    if not made:
        notes.append("FROM ./model: Ollama converts the model families that it knows; others need model.gguf")
    head = header(winner, "For `ollama create tuned -f Modelfile`, from this folder.", notes)
    (folder / "Modelfile").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    return notes


def _stops(winner: Winner) -> list[str]:
    """What ends an answer, as texts: what ends a turn of a chat need not be the tokenizer's own."""
    from loracle.training.dataset.template import frame_of
    from loracle.training.dataset.tokenizer import load_reading

    reading = load_reading(winner.config)
    frame = frame_of(reading.tokenizer)
    stops = sorted(frame.stops(reading.stop_ids))
    mark = frame.ending.strip()
    return [*map(str, reading.tokenizer.convert_ids_to_tokens(stops)), *([mark] if mark else [])]
