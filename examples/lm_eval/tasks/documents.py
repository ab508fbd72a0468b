"""The documents of the task: words, by how many letters they are to be rotated, and what to choose from."""

import random
from string import ascii_lowercase

from datasets import Dataset


def rotations(**_: object) -> dict[str, Dataset]:
    """400 of them, the same in every run."""
    chooser = random.Random(3)
    rows = []
    for _ in range(400):
        word = "".join(chooser.sample(ascii_lowercase, chooser.randint(5, 8)))
        options = [word[by:] + word[:by] for by in (1, 2, 3, 4)]
        rows.append({"by": chooser.randint(1, 2), "word": word, "options": options})
    return {"test": Dataset.from_list(rows)}
