"""Models of the Hugging Face hub, cached or downloaded; a hub out of reach is an error at once."""

import contextlib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from handloom.errors import UserError, first_line

HUB_TIMEOUT_S = 5.0
HUB_ID = r"[\w.-]+/[\w.-]+"

Model = TypeVar("Model")


def from_hub(name: str, files: list[str], load: Callable[[Path], Model], advice: str) -> Model:
    """Load a model that was downloaded before, or else download it.

    Args:
        name: its id, such as `amused/amused-256`.
        files: patterns of the files to download; beside a model lie others of many gigabytes.
        load: reads the model from the folder that holds them.
        advice: what to do with a folder that `hf download` wrote elsewhere, for a message.

    Raises:
        UserError: it is not in the cache, and the hub does not have it or cannot be reached; or
            what the hub gave does not load.
    """
    from huggingface_hub import snapshot_download

    cached: Exception | None = None
    try:
        return load(Path(snapshot_download(name, allow_patterns=files, local_files_only=True)))
    except (OSError, ValueError):  # it was not downloaded before
        pass
    except UserError as error:  # only other files of it were
        cached = error
    try:
        _ask_hub()
        return load(Path(snapshot_download(name, allow_patterns=files)))
    except (OSError, ValueError) as error:
        raise UserError(
            f'"{name}" is neither a folder here nor a model that the Hugging Face hub gave '
            f"({first_line(cached or error)}): where the hub can be reached run `hf download "
            f"{name} --local-dir DIR`{advice}"
        ) from error


def _ask_hub() -> None:
    """Return if the hub answers; raises OSError where it does not, or where it is switched off.

    huggingface_hub retries a name that does not resolve for 23 s; this asks once.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    with contextlib.suppress(urllib.error.HTTPError):  # any status is an answer
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S).close()
