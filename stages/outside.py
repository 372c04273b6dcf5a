"""Stages, adapters and frame transforms outside the checkout, named as `module:NAME`."""

import sys
import traceback
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from handloom.errors import UserError


def is_outside(name: str) -> bool:
    """Whether a name has the form `module:NAME`."""
    return ":" in name


def search(folders: Iterable[Path]) -> None:
    """Add folders to the import path, behind what is installed."""
    sys.path.extend(str(f) for f in folders if str(f) not in sys.path)


def load(name: str) -> Any:
    """The object that `module:NAME` names.

    Raises:
        UserError: the module cannot be imported, or does not define the name.
    """
    module, _, attribute = name.partition(":")
    try:
        names = vars(import_module(module))
    except ImportError as error:
        raise UserError(
            f"{name} cannot be imported ({error}); expected module:NAME, where the module lies in "
            "the folder of the --config file or the present one, or is installed."
        ) from None
    except Exception as error:  # whatever the user's own module raises
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{name} cannot be imported: {where.filename}, line {where.lineno}, raises "
            f"{type(error).__name__} ({error})."
        ) from None
    if attribute not in names:
        raise UserError(
            f"{name} is not there: {module} ({names.get('__file__')}) defines no {attribute!r}."
        )
    return names[attribute]


def module_file(name: str) -> Path:
    """The file of the module in `module:NAME`, once that is loaded."""
    return Path(str(sys.modules[name.partition(":")[0]].__file__))


def source_of(name: str) -> Path | None:
    """The file or folder that holds the outermost package of `module:NAME`; nothing is executed."""
    spec = find_spec(name.partition(":")[0].partition(".")[0])
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None
