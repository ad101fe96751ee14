"""What every command that runs a model needs: torch, which is an extra, asked for at the last moment."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cli.errors import OptionError

_EXTRA: Final = ("torch", "safetensors", "psutil", "pynvml")


@contextmanager
def engine_extra() -> Iterator[None]:
    """Turn the lack of what the extra `engine` installs into a sentence that says so.

    Raises:
        OptionError: a module of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as fault:
        if fault.name not in _EXTRA:
            raise
        raise OptionError(f"this command runs a model and needs {fault.name}; install afterwatt[engine]") from None
