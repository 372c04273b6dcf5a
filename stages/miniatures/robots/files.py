"""Files as the robot datasets' own code wrote them: pickles of numpy 1, arrays of objects."""

import hashlib
import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pickled(value: Any) -> bytes:
    """A pickle as numpy 1 made it, with which all of these datasets were written."""
    # Protocol 3 names modules in plain text, so that the old name can be put in their place.
    return pickle.dumps(value, protocol=3).replace(b"cnumpy._core.", b"cnumpy.core.")


def npy(array: NDArray[Any]) -> bytes:
    """What `np.save` makes of an array of numbers."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def object_npy(value: Any) -> bytes:
    """What `np.save` makes of a dict (an array without dimensions) or of a list of dicts."""
    array = np.empty(len(value) if isinstance(value, list) else (), object)
    array[...] = value
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {array.shape}, }}"
    padded = (header + " " * (-(len(header) + 11) % 64) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + pickled(array)


def embedding(text: str, width: int = 512) -> NDArray[np.float32]:
    """A unit vector [width] that stands for a sentence: the same for the same one, nothing more."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).normal(size=width)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)
