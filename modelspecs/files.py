"""Small files of a model's directory, read without trust: a device or a pipe there must not hang or fill the memory."""

import errno
from pathlib import Path
from typing import Final

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


def read_small(path: Path) -> str:
    """Return the text of a small file.

    Raises:
        OSError: see `check_small`; or it cannot be read.
        UnicodeDecodeError: it is no UTF-8.
    """
    check_small(path)
    return path.read_text(encoding="utf-8")
