"""Object stores as fsspec opens them: what lies there, patience while they are away, plain errors.

Endpoints, regions, profiles and keys are those of the usual environment variables and files.
"""

import errno
import functools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from handloom.errors import FULL, StoreError, UserError, first_line

T = TypeVar("T")

# Seconds between tries; in each the library itself tries several times, for some seconds.
PAUSES_S: tuple[float, ...] = (1, 2, 4, 8, 16, 16, 16)

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
KEYS = {
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or "
    "FSSPEC_S3_ANON=true for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or FSSPEC_GS_TOKEN=anon for a public bucket",
    "hf": "HF_TOKEN",
}
# Listings are kept by `places`, which knows when they are old.
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": 10,
            "read_timeout": 60,
            "retries": {"max_attempts": 2, "mode": "standard"},
        },
    },
    "gs": {"use_listings_cache": False},
}
ANSWERS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
OF_THE_DISK = FULL | {errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True)
class Info:
    """What a store says of a file or folder.

    Attributes:
        is_folder: nothing else is known of a folder.
        size: bytes.
        mtime_s: when it was written, whole seconds since 1970; 0 where the store does not say.
        tag: differs for different contents (an ETag); empty where it has to be asked for.
    """

    is_folder: bool
    size: int = 0
    mtime_s: int = 0
    tag: str = ""


FOLDER = Info(True)


def filesystem(protocol: str, **more: Any) -> Any:
    """The file system of a protocol; one for each process, and for the same further options.

    Raises:
        UserError: the protocol is unknown, or its package is not installed.
    """
    import fsspec  # here, so that `--help` does without

    known = "gs" if protocol == "gcs" else protocol
    try:
        return fsspec.filesystem(protocol, **OPTIONS.get(known, {}), **more)
    except ImportError:
        package = PACKAGES.get(protocol, f"fsspec's package for {protocol}://")
        raise UserError(
            f"{protocol}:// needs {package}, which is not installed: pip install {package}"
        ) from None
    except ValueError as error:
        if "rotocol" not in str(error):
            raise
        raise UserError(
            f"{protocol}:// is not known; expected a folder here, or s3://, gs://, hf:// and what "
            "else fsspec knows."
        ) from None


def ask(url: str, work: Callable[[Any], T], options: dict[str, Any] | None = None) -> T:
    """Ask a store for something, again while it does not answer.

    Args:
        url: what is asked about, for the error.
        work: is given the file system.
        options: of the file system, beside those of the environment.

    Raises:
        OSError: there is no such file, or one that should not be there; or this machine's own disk.
        StoreError: access is refused, or the store did not answer for minutes.
    """
    opened = filesystem(url.partition("://")[0], **(options or {}))
    for pause_s in (*PAUSES_S, None):
        try:
            return work(opened)
        except (*ANSWERS, StoreError, UserError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in OF_THE_DISK:
                raise
            if refused := _refused(error):
                raise StoreError(_refusal(url, refused)) from None
            if not _may_pass(error):
                if isinstance(error, OSError):
                    raise
                raise StoreError(
                    f"{bucket_of(url)} cannot be used ({type(error).__name__}: "
                    f"{first_line(error)}); see docs/storage.md."
                ) from error
            if pause_s is None:
                raise StoreError(
                    f"{bucket_of(url)} does not answer ({first_line(error)}); run the same command "
                    "again when it does, it goes on from there."
                ) from None
            time.sleep(pause_s * random.uniform(0.7, 1.3))
    raise AssertionError


def download(url: str, key: str, target: Path) -> None:
    """Write a file of a store to a path on this disk, by one request.

    s3fs would ask for a file of more than 50 MB once whole, hang up, and then in parts: a store
    sends, and charges for, what fills the buffers until it notices.
    """
    one = {"max_concurrency": 1} if url.startswith("s3://") else {}
    ask(url, lambda opened: opened.get_file(key, str(target), **one))


def bucket_of(url: str) -> str:
    """The bucket of a URL, as `s3://bucket`."""
    protocol, _, rest = url.partition("://")
    return f"{protocol}://{rest.partition('/')[0]}"


def described(entry: dict[str, Any]) -> Info:
    """An entry of a listing, as fsspec gives it."""
    if entry.get("type") == "directory":
        return FOLDER
    size = int(entry.get("size") or 0)
    mtime_s = _seconds(next(filter(None, map(entry.get, TIMES)), None))
    tag = next(filter(None, map(entry.get, TAGS)), None)
    return Info(False, size, mtime_s, str(tag).strip('"') if tag else f"{size}-{mtime_s}")


TIMES = ("LastModified", "updated", "mtime", "last_modified", "created")
TAGS = ("ETag", "etag", "md5Hash", "xet_hash", "blob_id", "sha256")


def _seconds(time_: Any) -> int:
    """A time as some file system gives it, in whole seconds: listings and files must agree."""
    if isinstance(time_, datetime):
        return int(time_.timestamp())
    if isinstance(time_, int | float):
        return int(time_)
    try:
        return int(datetime.fromisoformat(str(time_)).timestamp())
    except ValueError:
        return 0


def _refused(error: Exception) -> str:
    """Why access was refused, in the store's words; empty for other errors."""
    if isinstance(error, PermissionError):
        return error.strerror or first_line(error)
    return first_line(error) if isinstance(error, _no_keys()) or _status(error) == 401 else ""


def _refusal(url: str, why: str) -> str:
    protocol = url.partition("://")[0]
    keys = KEYS.get("gs" if protocol == "gcs" else protocol, "the credentials that fsspec wants")
    return f"{bucket_of(url)} refuses access to {url} ({why.rstrip('.')}): set {keys}."


@functools.cache
def _no_keys() -> tuple[type[Exception], ...]:
    """Errors of a machine that has no usable credentials."""
    found: list[type[Exception]] = []
    try:
        from botocore import exceptions as boto

        found += [boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound]
        found += [boto.TokenRetrievalError, boto.CredentialRetrievalError, boto.SSOError]
    except ImportError:
        pass
    try:
        from google.auth import exceptions as google

        found.append(google.GoogleAuthError)
    except ImportError:
        pass
    return tuple(found)


@functools.cache
def _broken() -> tuple[type[Exception], ...]:
    """Errors of a connection that broke or was not made."""
    found: list[type[Exception]] = [ConnectionError, TimeoutError]
    try:
        from aiohttp import ClientError

        found.append(ClientError)
    except ImportError:
        pass
    try:
        from botocore import exceptions as boto

        found += [boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError]
        found += [boto.ResponseStreamingError]
    except ImportError:
        pass
    return tuple(found)


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later: no answer, or "too many requests"."""
    if isinstance(error, _broken()):
        return True
    if (status := _status(error)) is not None:
        return status >= 500 or status == 429
    return isinstance(error, OSError) and error.errno in (errno.EBUSY, errno.ETIMEDOUT)


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error, where there is one."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return int(status) if status else None
        status = getattr(response, "status_code", None) or getattr(one, "status", None)
        if isinstance(status, int):
            return status
    return None
