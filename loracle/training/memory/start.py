"""How a worker begins: what it imports of other people's packages, and in which order.

Wherever they are installed, transformers imports scipy, for the losses of object detectors (35 MB), and PEFT
imports bitsandbytes, for weights that it has quantised (46 MB, and a fifth of the time of all imports). A
worker does without the one, and with the other where its model needs it.

A large tokenizer is made of a million Python objects, most of which are gone afterwards. Python does not give
back the places between those that stay, but fills them, so what is loaded next takes no room there: 40 MB
with 262,144 words. Therefore the tokenizer comes before most of what is imported.
"""

from __future__ import annotations

import contextlib
from typing import Any

from loracle.config.execution.left_out import QUANTIZER, left_out
from loracle.config.settings import RunConfig


def begin(config: RunConfig) -> Any | None:
    """Imports these packages and returns the config's tokenizer.

    None where it cannot be loaded, for a reason that the loader of the model meets, and says.
    """
    with left_out("scipy"), contextlib.suppress(ImportError):  # it is transformers' own module
        import transformers.loss.loss_utils  # noqa: F401
    from loracle.training.dataset.tokenizer import Place  # which imports more of it

    tokenizer = None
    with contextlib.suppress(Exception):  # of any kind, as `load_base` has them
        tokenizer = Place.of(config).tokenizer(config)
    with left_out(QUANTIZER):
        import peft  # noqa: F401
    return tokenizer
