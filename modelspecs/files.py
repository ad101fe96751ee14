"""Small files that users name, read without trust: a device or a pipe there must not hang or fill the memory."""

import errno
import json
import math
from pathlib import Path
from typing import Any, Final

DATA_DIR: Final = Path(__file__).parent / "data"
"""What is shipped of models, a file each, and in `formats/` of how weights are stored."""

LARGEST_BYTES: Final = 256 << 20
"""A tokenizer of 256,000 words takes 35 MB; what exceeds this is no such file."""


def check_small(path: Path, most_bytes: int = LARGEST_BYTES) -> None:
    """Refuse what is no regular file or too large to be read at once.

    Raises:
        OSError: it is; or nothing is there, or the name cannot be one.
    """
    try:
        size = path.stat().st_size
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error)) from None
    if not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file")
    if size > most_bytes:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes where {most_bytes:,} are the most")


def read_small(path: Path, most_bytes: int = LARGEST_BYTES) -> str:
    """Return the text of a small file.

    Raises:
        OSError: see `check_small`; or it cannot be read.
        UnicodeDecodeError: it is no UTF-8.
    """
    check_small(path, most_bytes)
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return what a small JSON file holds: no NaN, no infinity, no number that a computer's word cannot carry.

    Raises:
        OSError: see `check_small`; or it cannot be read.
        ValueError: it is no such JSON in UTF-8, or nests without end.
    """
    try:
        return json.loads(read_small(path), parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("it nests without end") from None


def _whole(text: str) -> int:
    if len(text) > len(str(-(2**63))) or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the number {text[:30]}... is beyond 64 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:30]} is no finite number")
    return value
