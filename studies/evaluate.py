"""One run in memory: what came of it as tables, with no directory left behind."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from afterwatt.reports.schema import Manifest, Summary
from afterwatt.reports.tables import open_parquet

if TYPE_CHECKING:
    import pandas as pd

    from afterwatt.sim.config import RunConfig

NAMES: Final = ("hw", "model", "precision", "stack", "policy", "site", "seed")
"""What a run is called by in a row, first."""
_SAID_ELSEWHERE: Final = {"schema_version", "body", "model", "hardware", "policies", "site", "breakeven"}
_LEFT_OUT: Final = ("by_method", "notes")
_BLOCKS: Final = ("prediction", "range_90", "energy_error_90")
"""Blocks of a summary that may be unknown as a whole."""
_UNIT: Final = re.compile(r"(.+)_(s|j|gco2e|usd|bytes)")
_TABLES: Final = ("requests", "timeline", "draws")


@dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Attributes:
        manifest: what was run, as in manifest.json.
        result: what came of it, as in summary.json; None is unknown.
        tables: name -> Arrow table, as in the run directory.
    """

    manifest: Manifest
    result: Summary
    tables: Mapping[str, Any]

    @property
    def summary(self) -> "pd.DataFrame":
        """One row: what ran, then every figure under its name with its unit; NaN is unknown."""
        return frame([self.row()])

    @property
    def requests(self) -> "pd.DataFrame":
        """One row per request."""
        return self._frame("requests")

    @property
    def timeline(self) -> "pd.DataFrame":
        """One row per interval and replica."""
        return self._frame("timeline")

    @property
    def draws(self) -> "pd.DataFrame":
        """One row per draw of what is uncertain about carbon."""
        return self._frame("draws")

    def row(self) -> dict[str, Any]:
        """Give the summary flat: column -> value, None where unknown."""
        config = self.manifest.config
        names = {name: config.get(name) for name in NAMES}
        return {**names, **dict(_flat(self.result.model_dump(exclude=_SAID_ELSEWHERE)))}

    def _repr_html_(self) -> str:
        shown: str = self.summary.T.to_html(header=False)
        return shown

    def _frame(self, table: str) -> "pd.DataFrame":
        found: pd.DataFrame = self.tables[table].to_pandas()
        return found


def evaluate(config: "RunConfig") -> Outcome:
    """Simulate one run and keep what came of it in memory.

    Args:
        config: the run, such as those of `plan_study(...).jobs`.

    Raises:
        Infeasible: the model does not fit.
        ValueError: an input file turns out to be faulty on the way.
    """
    from afterwatt.sim.run import simulate

    with TemporaryDirectory(prefix="afterwatt-") as folder:
        run = simulate(config, Path(folder) / "run")
        tables = {name: open_parquet(run.file(name)).read() for name in _TABLES if run.has(name)}
        return Outcome(run.manifest, run.summary, tables)


def frame(rows: list[dict[str, Any]]) -> "pd.DataFrame":
    """Make a table of flat summaries: NaN where a figure is unknown, and where a row has no such column.

    Args:
        rows: column -> value.
    """
    import pandas as pd

    table = pd.DataFrame(rows)
    texts = [name for name in table if table[name].map(lambda value: isinstance(value, str)).any()]
    return table.astype({name: float for name in table if name not in texts and table[name].dtype == object})


def _flat(block: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield (column, value) for every figure of a nested block."""
    for key, value in block.items():
        if key in _LEFT_OUT or (value is None and key in _BLOCKS):
            continue
        place = (*path, "moved_bytes" if key == "bytes_moved" else key)
        if isinstance(value, Mapping):
            yield from _flat(value, place)
        elif not isinstance(value, list):
            yield _column(place, isinstance(value, str)), value


def _column(path: tuple[str, ...], is_text: bool) -> str:
    """Name a column after its place in the summary, a block's unit last: `ttft_s`, `p90` is `ttft_p90_s`."""
    words, unit = [], ""
    for part in path[:-1]:
        found = None if part.endswith("_per_s") else _UNIT.fullmatch(part)
        words.append(found[1] if found else part)
        unit = found[2] if found else unit
    last = path[-1]
    has_own = is_text or not unit or "_per_" in last
    return "_".join((*(word for word in words if word != "prediction"), last, *([] if has_own else [unit])))
