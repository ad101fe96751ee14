"""Requests: one schema, readers for the public formats, synthesis, statistics.

This package imports no other of ours. `open_trace` turns a path or a `synth:` address into a `Trace`, which yields
`Batch`es of arrival times and token counts; `describe` measures one, `write_parquet` and `write_csv` convert one, and
`SyntheticTrace` draws one from a preset. `sample_path` is the shipped sample.

Names are loaded on first use: importing `traces` alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from afterwatt.traces.errors import TraceError

if TYPE_CHECKING:
    from afterwatt.traces.formats import FORMATS
    from afterwatt.traces.opening import open_trace
    from afterwatt.traces.options import Options
    from afterwatt.traces.presets import preset_names
    from afterwatt.traces.sample import sample_path
    from afterwatt.traces.schema import Batch, Trace, TraceInfo
    from afterwatt.traces.stats import describe
    from afterwatt.traces.synth import SyntheticTrace
    from afterwatt.traces.write import write_csv, write_parquet, write_trace

_HOME = {
    "FORMATS": "formats",
    "Batch": "schema",
    "Options": "options",
    "SyntheticTrace": "synth",
    "Trace": "schema",
    "TraceInfo": "schema",
    "describe": "stats",
    "open_trace": "opening",
    "preset_names": "presets",
    "sample_path": "sample",
    "write_csv": "write",
    "write_parquet": "write",
    "write_trace": "write",
}

__all__ = [
    "FORMATS",
    "Batch",
    "Options",
    "SyntheticTrace",
    "Trace",
    "TraceError",
    "TraceInfo",
    "describe",
    "open_trace",
    "preset_names",
    "sample_path",
    "write_csv",
    "write_parquet",
    "write_trace",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"afterwatt.traces.{_HOME[name]}"), name)
    raise AttributeError(f"module 'traces' has no attribute '{name}'")
