"""The images of one camera of a robot episode, as encoded files or as one array."""

import hashlib
import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from handloom.errors import MediaError

MAX_PIXELS = 1 << 25
"""Largest image. A file of a few bytes can claim any size: it is checked before decoding."""

FORMATS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}

# What Pillow raises on damaged files; SyntaxError is its word for a broken PNG.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


class EncodedImages:
    """JPEG or PNG files, each decoded when it is read.

    Args:
        files: one encoded image a step.
        name: of the camera, for messages.
    """

    def __init__(self, files: Sequence[bytes | memoryview], name: str = "") -> None:
        self.files = files
        self.name = name

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __getitem__(self, step: int) -> NDArray[np.uint8]:
        """One image, RGB uint8 [H, W, 3]. Raises MediaError if it cannot be decoded."""
        try:
            return decode_image(self.files[step])
        except MediaError as error:
            raise MediaError(f"picture {step} of view {self.name or '?'} {error}") from None

    def fingerprint(self, step: int) -> bytes:
        """The encoded file: decoders differ by a few levels, the file does not."""
        return bytes(self.files[step])


class ArrayImages:
    """Images that are stored uncompressed.

    Args:
        images_thwc: uint8 [T, H, W, 3], RGB; in memory, mapped, or any array read by slices.
        name: of the camera, for messages.

    Raises:
        MediaError: the array has another shape or type.
    """

    def __init__(self, images_thwc: NDArray[np.uint8], name: str = "") -> None:
        shape, dtype = images_thwc.shape, images_thwc.dtype
        if len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8 or 0 in shape[1:]:
            raise MediaError(
                f"view {name or '?'} has shape {list(shape)} of {dtype}, expected pictures "
                "[steps, height, width, 3] of uint8"
            )
        if shape[1] * shape[2] > MAX_PIXELS:
            raise MediaError(f"view {name or '?'} has pictures of {shape[2]}x{shape[1]} pixels")
        self.images_thwc = images_thwc
        self.name = name

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images_thwc)

    def __getitem__(self, step: int) -> NDArray[np.uint8]:
        """One image, RGB uint8 [H, W, 3]."""
        return np.ascontiguousarray(self.images_thwc[step])

    def fingerprint(self, step: int) -> bytes:
        """A hash of the image's size and pixels, 16 bytes."""
        return hash_arrays(self[step])


def hash_arrays(*arrays: NDArray[Any]) -> bytes:
    """A hash of shapes and values of arrays, 16 bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(repr(array.shape).encode())  # the same bytes may be of another shape
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def decode_image(file: bytes | memoryview) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG file, recognised by its content.

    Grey and palette images become RGB, transparency is dropped. 16-bit grey is refused: it is
    depth, and its upper 8 bits would show nothing.

    Returns:
        RGB uint8 [H, W, 3].

    Raises:
        MediaError: what is wrong with the file, as the end of a sentence.
    """
    start = bytes(file[:8])
    if not any(start.startswith(magic) for magic in FORMATS):
        raise MediaError(f"is neither JPEG nor PNG (it begins with {start.hex(' ') or 'nothing'})")
    try:
        with Image.open(io.BytesIO(file), formats=tuple(FORMATS.values())) as image:
            if image.width * image.height > MAX_PIXELS:
                raise MediaError(f"claims {image.width}x{image.height} pixels")
            if image.mode[0] in "IF":  # Pillow's modes of 16 and 32 bits a pixel
                raise MediaError("has 16 bits a pixel, as depth has; expected colours")
            return np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError:
        raise MediaError(f"claims more than {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise MediaError("is damaged (its header)") from None
    except _DAMAGED as error:
        raise MediaError(f"is damaged ({error})") from None
