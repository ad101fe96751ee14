"""The identity of a cell: a hash of its whole resolved configuration, the trace's content included.

Two cells with one hash give one result, wherever and in whichever order they run; so a study may keep what it finds
under a name that ends in the hash.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afterwatt.sim.config import RunConfig
    from afterwatt.studies.workloads import Arrivals


def digest_of(config: "RunConfig", workload: Mapping[str, Any]) -> str:
    """Hash a configuration.

    Args:
        config: the run; its workload is an object with state and is described apart.
        workload: what `workload_identity` says.

    Returns:
        64 hex digits.
    """
    fields = {item.name: getattr(config, item.name) for item in dataclasses.fields(config) if item.name != "workload"}
    said = {"version": importlib.metadata.version("afterwatt"), "workload": workload, **fields}
    return hashlib.sha256(json.dumps(_plain(said), sort_keys=True).encode()).hexdigest()


def workload_identity(arrivals: "Arrivals") -> dict[str, Any]:
    """Describe a workload: its sizes, and the trace by its content rather than by its place."""
    workload, trace = arrivals.workload, arrivals.trace
    said: dict[str, Any] = {"kind": type(workload).__name__}
    for name in ("limit", "users", "requests", "think_s", "batch", "prompt_tokens", "output_tokens"):
        said[name] = getattr(workload, name, None)
    if trace is not None:
        path = Path(trace.info.path)
        said["content"] = _sha256(path) if path.is_file() else trace.info.path
        said["query"] = arrivals.address.partition("?")[2]
        # What the reader made of it: its notes name a rate, a seed and what was left out.
        said["read"] = [trace.info.format, trace.info.rows, trace.info.span_s, trace.info.notes]
    return said


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _plain(value: object) -> Any:  # noqa: ANN401 - whatever JSON has a word for
    """Turn a configuration into lists, dicts, numbers and text; of a fact, what a simulation can see of it."""
    import numpy as np

    from afterwatt.hwprofiles.facts import Fact

    if isinstance(value, Fact):
        return [float(value), value.low, value.high]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value) if item.compare}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a configuration holds a {type(value).__name__}, which has no identity")
