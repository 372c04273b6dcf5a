"""Keys of TFDS features by what they hold: the numbers of an action or a state, the instruction."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from handloom.errors import UserError
from handloom.stages.datasets.formats.tfds_features import RAGGED, STEPS, VARIES, Feature, Features
from handloom.stages.datasets.source import EpisodeOptions

TEXT_NAME = re.compile(r"(natural_)?language_instruction(_\d+)?|instruction|language|task")


def number_keys(features: Features, given: str, names: Sequence[str], what: str) -> list[str]:
    """Keys of the numbers under a name: several, in name order, where it is a dict.

    Args:
        features: of the dataset.
        given: the name that the user gave, or empty.
        names: usual names, tried in order if none is given.
        what: action or state, for messages and the name of the option.

    Raises:
        UserError: the given name does not exist, or no action has a usual name.
    """
    for name in (given,) if given else names:
        path = STEPS + name.removeprefix(STEPS).strip("/")
        keys = [key for key in features if key == path or key.startswith(path + "/")]
        keys = [key for key in keys if _is_vector(features[key])]
        ragged = next((key for key in keys if VARIES in features[key].shape), "")
        if ragged:
            raise UserError(f"{ragged} {RAGGED} (--ingest.{what}-key).")
        if keys:
            return keys
    if given or what == "action":
        available = [k for k in features if k.startswith(STEPS) and _is_vector(features[k])]
        tried = given or " or ".join(names)
        raise UserError(
            f"features.json has no numbers at {tried!r} below steps: name the {what} with "
            f"--ingest.{what}-key, one of {', '.join(k.removeprefix(STEPS) for k in available)}."
        )
    return []


def _is_vector(feature: Feature) -> bool:
    """Whether numbers may be an action or a state: not images, not embeddings of the text."""
    return feature.kind == "number" and not feature.is_image and "embedding" not in feature.key


def text_keys(features: Features, options: EpisodeOptions | None) -> list[str]:
    """Keys of the instruction: the one of the option, else all with a usual name.

    Raises:
        UserError: the option names no text.
    """
    texts = [key for key, feature in features.items() if feature.kind == "text"]
    if options is None or not options.text_key:
        return [key for key in texts if TEXT_NAME.fullmatch(PurePosixPath(key).name)]
    given = options.text_key.strip("/")
    for key in (given, STEPS + given, STEPS + "observation/" + given):
        if key in texts:
            return [key]
    raise UserError(
        f"features.json has no text at {options.text_key!r}: --ingest.text-key can be "
        f"{', '.join(texts) or 'left out, it has none, and --ingest.text given'}."
    )
