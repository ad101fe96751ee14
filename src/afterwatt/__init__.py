"""Afterwatt: what would these GPUs, old or new, carry; and what do users feel, the hardware do, and the planet pay?

The packages below (`afterwatt.sim`, `afterwatt.hwprofiles`, ...) lie at the top level of the repository; a wheel maps
them to here, and in a checkout links do.

In a notebook:

    import afterwatt as aw

    aw.compare(hw=["m40", "h100-sxm"], limit=100)    # a DataFrame: one row per combination
    aw.simulate(hw="m40", limit=100).requests        # a DataFrame: one row per request

Names below load on first use, so that importing the package costs nothing.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from afterwatt import compiled as compiled  # before any module that it finds

if not Path(__file__).with_name("sim").is_dir() and (_ROOT := Path(__file__).resolve().parents[2] / "sim").is_dir():
    __path__.append(str(_ROOT.parent))  # a checkout on a file system without links

if TYPE_CHECKING:
    from afterwatt.reports.rundir import load_run as load_run
    from afterwatt.studies.config import StudyConfig as StudyConfig
    from afterwatt.studies.errors import OptionError as OptionError
    from afterwatt.studies.notebook import compare as compare
    from afterwatt.studies.notebook import simulate as simulate
    from afterwatt.studies.notebook import study as study

_HOME: Final = {
    "load_run": "reports.rundir",
    "StudyConfig": "studies.config",
    "OptionError": "studies.errors",
    "compare": "studies.notebook",
    "simulate": "studies.notebook",
    "study": "studies.notebook",
}
"""Name -> the module that it comes from."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - of many kinds
    if name not in _HOME:
        raise AttributeError(f"module 'afterwatt' has no attribute {name!r}; it has {', '.join(_HOME)}")
    return getattr(importlib.import_module(f"afterwatt.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
