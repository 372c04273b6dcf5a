"""A JSON file beside a model."""

import json
from pathlib import Path
from typing import Any

from handloom.errors import UserError, first_line


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises UserError where it is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object, found a {type(content).__name__}")
    return content
