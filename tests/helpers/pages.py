"""The examples that pages of the documentation show."""

import re

from tests.helpers.folders import CHECKOUT


def code_of(page: str) -> str:
    """The Python file that a page shows."""
    text = (CHECKOUT / "docs" / page).read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return str(code)
