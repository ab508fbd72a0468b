"""Sources of rows: files of any kind, folders, datasets of the hub."""

from loracle.training.dataset.files.reading import read_examples

__all__ = ["read_examples"]
