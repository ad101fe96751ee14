"""pyarrow without pandas: a command that shows no DataFrame does not wait for the import of one."""

import sys
from collections.abc import Sequence
from types import ModuleType


class _NoPandas:
    """Says to whoever looks for it that there is no pandas."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Refuse pandas, and know nothing of other modules."""
        del path, target
        if name == "pandas":
            raise ImportError(name)


def probe_without_pandas() -> None:
    """Let pyarrow look for pandas while there is none to find.

    It looks once, when it makes its first array, and imports what it finds: 0.1 s. Afterwards it converts no pandas
    objects to Arrow faster than any other sequence; tables become DataFrames as ever.
    """
    if "pandas" in sys.modules:
        return
    hidden = _NoPandas()
    sys.meta_path.insert(0, hidden)
    try:
        import pyarrow as pa

        pa.array([])
    finally:
        sys.meta_path.remove(hidden)
