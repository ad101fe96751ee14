"""The text that the tiny models learn: the sources of Python's standard library, which every installation carries.

Tests, generated tables and what differs from build to build are left out. A file is held out when the first byte of the
SHA-256 of its relative path is below `HELD_OUT_BELOW`: about one file in twenty, none of it ever trained on. Every file
of the training text is preceded by one end-of-text byte (0, which no source contains).
"""

import hashlib
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path

END_OF_TEXT = 0
HELD_OUT_BELOW = 13
SAMPLE_PIECES = 60
PIECE_BYTES = 1024

SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "encodings", "pydoc_data"})
# config-3.11-x86_64-linux-gnu/ and _sysconfigdata__linux_x86_64-linux-gnu.py tell of the machine that built Python.
SKIPPED_PREFIXES = ("config-", "_sysconfigdata")

# The library changes with every patch release: what the committed checkpoints were trained on.
PYTHON_VERSION = "3.11.7"
CORPUS_SHA256 = "792bd9fc0253ee8911d9bb0faf39fb32298ecf479c43a2363bd7222ffbb41c33"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Files as (relative path, content), in order of path, split by `is_held_out`.

    Attributes:
        train: what may be trained on.
        held_out: what may not.
        sha256: over paths, lengths and contents of both, in order of path.
        python_version: the release whose library this is, such as 3.11.7.
    """

    train: tuple[tuple[str, bytes], ...]
    held_out: tuple[tuple[str, bytes], ...]
    sha256: str
    python_version: str

    def train_bytes(self) -> bytes:
        """All training text in one string, each file behind an end-of-text byte."""
        return b"".join(bytes([END_OF_TEXT]) + content for _, content in self.train)

    def held_out_pieces(self) -> list[tuple[str, bytes]]:
        """(path, piece) for all whole pieces of `PIECE_BYTES` bytes that held-out files can be cut into."""
        return [
            (name, content[start : start + PIECE_BYTES])
            for name, content in self.held_out
            for start in range(0, len(content) - PIECE_BYTES + 1, PIECE_BYTES)
        ]

    def sample_pieces(self) -> list[tuple[str, bytes]]:
        """The `SAMPLE_PIECES` of `held_out_pieces` at even distances: the text that quality is quoted on."""
        pieces = self.held_out_pieces()
        return [pieces[index * len(pieces) // SAMPLE_PIECES] for index in range(SAMPLE_PIECES)]


def is_held_out(name: str) -> bool:
    """Whether a file is held out: a property of its path alone, so that it holds across Python versions."""
    return hashlib.sha256(name.encode()).digest()[0] < HELD_OUT_BELOW


def read_corpus(root: Path | None = None) -> Corpus:
    """Read the standard library's sources below `root` (None: this Python's).

    Raises:
        SystemExit: a source contains the end-of-text byte.
    """
    folder = root or Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if path.is_file())
    files = tuple((name, (folder / name).read_bytes()) for name in names if not _is_skipped(name))
    digest = hashlib.sha256()
    for name, content in files:
        if END_OF_TEXT in content:
            raise SystemExit(f"{folder / name} contains byte {END_OF_TEXT}, which stands for end of text; leave it out")
        digest.update(f"{name}\n{len(content)}\n".encode())
        digest.update(content)
    return Corpus(
        tuple(file for file in files if not is_held_out(file[0])),
        tuple(file for file in files if is_held_out(file[0])),
        digest.hexdigest(),
        platform.python_version(),
    )


def check_corpus(corpus: Corpus) -> None:
    """Refuse any text but the one that the committed checkpoints come from.

    Raises:
        SystemExit: the hash is another.
    """
    if corpus.sha256 != CORPUS_SHA256:
        raise SystemExit(
            f"the standard library of Python {corpus.python_version} (sha256 {corpus.sha256[:16]}...) is not the text "
            f"of the committed checkpoints (Python {PYTHON_VERSION}, sha256 {CORPUS_SHA256[:16]}...): run Python "
            f"{PYTHON_VERSION}, or say --any-corpus for checkpoints that compare with none but their own"
        )


def _is_skipped(name: str) -> bool:
    parts = name.split("/")
    return not SKIPPED_FOLDERS.isdisjoint(parts) or any(part.startswith(SKIPPED_PREFIXES) for part in parts)
