"""The identity of a run: a hash of all that its result depends on.

That is the resolved configuration, the content of the trace, the data files and the sources. Two runs with one hash
give one result, wherever and in whichever order they run; so a study may keep what it finds under a name that ends in
the hash. Nothing of it depends on times, on the place of a file, or on whether modules run compiled.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from afterwatt.sim.config import RunConfig
    from afterwatt.studies.cells import Cell
    from afterwatt.studies.config import StudyConfig
    from afterwatt.studies.workloads import StudyWorkload

SOURCES: Final = ("hwprofiles", "modelspecs", "policies", "reports", "sim", "traces")
"""The packages that a simulated run is made of: `sim` and all that it may import."""
_ASIDE: Final = (
    *("trace", "seed", "replications", "jobs", "out", "overwrite"),
    *("no_report", "strict_slo", "json_output", "quiet"),
)
"""Words of a study that no single run depends on, or that are said otherwise."""


def digest_of(config: "RunConfig", workload: Mapping[str, Any]) -> str:
    """Hash a run.

    Args:
        config: the run; its workload is an object with state and is described apart.
        workload: what `workload_identity` says.

    Returns:
        64 hex digits.
    """
    from afterwatt.sim.provenance import data_files

    apart = ("workload", "own_files")
    said = {
        "version": importlib.metadata.version("afterwatt"),
        "sources": sources_digest(),
        "data": sorted(data_files(config).values()),
        "workload": workload,
        **{item.name: getattr(config, item.name) for item in dataclasses.fields(config) if item.name not in apart},
    }
    return hashlib.sha256(json.dumps(_plain(said), sort_keys=True).encode()).hexdigest()


def asked_of(study: "StudyConfig", cell: "Cell", seed: int, workload: Mapping[str, Any]) -> str:
    """Hash what a run was asked for, in words: the same while data and sources under it change.

    Args:
        study: what all runs share.
        cell: what this one is.
        seed: of everything random.
        workload: what `workload_identity` says.

    Returns:
        64 hex digits.
    """
    said = study.model_dump(mode="json", exclude={*cell.__slots__, *_ASIDE})
    said |= {"cell": dataclasses.asdict(cell), "seed": seed, "workload": workload}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@functools.cache
def sources_digest() -> str:
    """Hash the Python files of `SOURCES` by their place in the package and their content.

    Returns:
        64 hex digits; the same for a wheel and a checkout, and whether or not modules run compiled.
    """
    digest = hashlib.sha256()
    for package in SOURCES:
        found = importlib.util.find_spec(f"afterwatt.{package}")
        assert found is not None
        assert found.submodule_search_locations is not None
        root = Path(found.submodule_search_locations[0])
        for path in sorted(root.rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{package}/{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def workload_identity(arrivals: "StudyWorkload") -> dict[str, Any]:
    """Describe a workload: its sizes, and the trace by its content rather than by its place."""
    from afterwatt.sim.provenance import sha256_of

    workload, trace = arrivals.workload, arrivals.trace
    said: dict[str, Any] = {"kind": type(workload).__name__}
    for name in ("limit", "users", "requests", "think_s", "batch", "prompt_tokens", "output_tokens"):
        said[name] = getattr(workload, name, None)
    if trace is not None:
        path = Path(trace.info.path)
        said["content"] = sha256_of(path) if path.is_file() else trace.info.path
        said["query"] = arrivals.address.partition("?")[2]
        # What the reader made of it: its notes name a rate, a seed and what was left out.
        said["read"] = [trace.info.format, trace.info.rows, trace.info.span_s, trace.info.notes]
    return said


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
