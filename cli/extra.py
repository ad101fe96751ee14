"""The optional extra that brings torch, and what to say where it is missing."""

import importlib.util
from typing import Final

from afterwatt.studies.errors import OptionError

EXTRA: Final = "pip install 'afterwatt[engine]'"


def needs_engine(command: str) -> None:
    """Refuse a command that runs a model, where nothing is installed to run it with.

    Raises:
        OptionError: torch is missing.
    """
    if importlib.util.find_spec("torch") is None:
        raise OptionError(f"`afterwatt {command}` runs a model with torch, which is not installed; {EXTRA}")
