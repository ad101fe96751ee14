"""Run directories and what people read of them: the schema, the writer, the summary, the page and the terminal's table.

Reads files, never live objects: a body (the simulator, later an emulator or an engine) writes a run directory through
:class:`~afterwatt.reports.rundir.RunWriter`, and everything here starts from such a directory. It knows no physics.

Names below load on first use, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from afterwatt.reports.errors import ReportError as ReportError
    from afterwatt.reports.html import render as render
    from afterwatt.reports.html import write_report as write_report
    from afterwatt.reports.rundir import Run as Run
    from afterwatt.reports.rundir import RunWriter as RunWriter
    from afterwatt.reports.rundir import find_runs as find_runs
    from afterwatt.reports.rundir import load_run as load_run
    from afterwatt.reports.schema import manifest_json_schema as manifest_json_schema
    from afterwatt.reports.schema import summary_json_schema as summary_json_schema
    from afterwatt.reports.summary import assemble_summary as assemble_summary
    from afterwatt.reports.summary import served as served
    from afterwatt.reports.summary import summarise as summarise
    from afterwatt.reports.terminal import print_runs as print_runs

_HOME: Final = {
    "errors": ("ReportError",),
    "html": ("render", "write_report"),
    "rundir": ("Run", "RunWriter", "find_runs", "load_run"),
    "schema": ("manifest_json_schema", "summary_json_schema"),
    "summary": ("assemble_summary", "served", "summarise"),
    "terminal": ("print_runs",),
}
_MODULE_OF: Final = {name: module for module, names in _HOME.items() for name in names}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- whatever the name stands for
    """Load a public name from its module."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'reports' has no attribute {name!r}")
    return getattr(importlib.import_module(f"afterwatt.reports.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(_MODULE_OF)
