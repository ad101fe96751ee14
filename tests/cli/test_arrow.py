"""A command that shows no DataFrame does not import pandas, and one that does still can."""

import subprocess
import sys

PROGRAM = """
import sys
from afterwatt.cli.arrow import probe_without_pandas
before = list(sys.meta_path)
probe_without_pandas()
assert sys.meta_path == before
import numpy as np, pyarrow as pa
table = pa.table({"a": pa.array(["x", None]), "b": pa.array(np.array([1.0, np.nan]), from_pandas=True)})
assert table["b"].null_count == 1
np.asarray(table["b"])
assert "pandas" not in sys.modules
frame = table.to_pandas()
import pandas
assert type(frame) is pandas.DataFrame
assert pa.array(frame["b"]).to_pylist()[0] == 1.0
probe_without_pandas()
"""


def test_pandas_is_imported_by_whoever_wants_it_and_not_before():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


def test_a_simulation_without_a_page_imports_none(tmp_path):
    program = f"""
import sys
from afterwatt.cli.main import run, simulate_app
assert run(simulate_app(), ["--hw", "m40", "--limit", "5", "--no-report", "--out", {str(tmp_path / "run")!r}]) == 0
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
