"""Handloom turns video that people already have into training data for robot foundation models."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout `pipeline`, `stages`, `tokenize` and `train` lie beside this folder, not inside it.
# None of them holds an __init__.py: a package called `tokenize` at the root would shadow Python's
# own module. A wheel maps them into this folder, and then there is nothing to append.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "tokenize").is_dir():
    __path__.append(str(_checkout))
