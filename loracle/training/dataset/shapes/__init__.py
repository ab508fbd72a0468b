"""Shapes of rows: what stands in a file, as examples.

A new shape is one function, registered with `shape`.
"""

from loracle.training.dataset.shapes import chats, pairs
from loracle.training.dataset.shapes.example import Example, Form, Message
from loracle.training.dataset.shapes.registry import SHAPES, as_example, read_fields, shape

__all__ = ["SHAPES", "Example", "Form", "Message", "as_example", "chats", "pairs", "read_fields", "shape"]
