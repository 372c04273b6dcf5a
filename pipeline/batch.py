"""A batch of work. The module imports no stage, so that workers, which import it, start sooner."""

import hashlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Batch:
    """Work for one call of a worker; its rows become one part of the stage's table."""

    bucket: str
    keys: tuple[str, ...]
    inputs: tuple[tuple[Any, ...], ...]
    clips: int
    digests: tuple[int, ...] = ()
    """Of each input's values; none for `ingest`, whose inputs are no rows."""

    @property
    def name(self) -> str:
        """Name of the part: a hash of the keys, and of the values, which may change under them."""
        facts = "/".join([*self.keys, *map(str, self.digests)])
        return hashlib.blake2b(facts.encode(), digest_size=6).hexdigest()

    @property
    def files(self) -> int:
        """Number of videos or episodes that its inputs are of."""
        ids = (
            getattr(one[0], "video_id", key)
            for key, one in zip(self.keys, self.inputs, strict=True)
        )
        return len(set(ids))

    def split(self) -> list["Batch"]:
        """The same work one input at a time."""
        return [
            Batch(
                self.bucket,
                (key,),
                (inputs,),
                max(1, self.clips // len(self.keys)),
                self.digests[number : number + 1],
            )
            for number, (key, inputs) in enumerate(zip(self.keys, self.inputs, strict=True))
        ]
