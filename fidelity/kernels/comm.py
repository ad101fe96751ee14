"""All-reduces between GPUs: tables of them, and what they tell of a link's share and latency.

Same schema and same formula as everywhere (`fidelity.kernels.table`, `hwprofiles.kernels.all_reduce_s`); the fit has
two parameters per device and link, judged on octaves of the message size that it has not seen.
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from afterwatt.fidelity.kernels.readers import AICONFIGURATOR, APEX, VIDUR
from afterwatt.fidelity.kernels.table import kernel_rows
from afterwatt.hwprofiles.catalogue import load_device, load_link
from afterwatt.hwprofiles.kernels import all_reduce_s
from afterwatt.hwprofiles.links import Link, nvlink_of
from afterwatt.hwprofiles.stacks import FREE

Floats = NDArray[np.float64]

SMALLEST_BYTES: Final = 1024
_BOUNDS: Final = {parameter.name: (parameter.low, parameter.high) for parameter in FREE}


class LinkFit(NamedTuple):
    """What all-reduces of one source over one link tell.

    Attributes:
        device, link, source: where they ran.
        comm_efficiency: share of the link's rate.
        hop_latency_s: of one hop: the link's own and the software's.
        rows: held out; median: of the absolute relative error on them; p90: its 90th percentile.
    """

    device: str
    link: str
    source: str
    comm_efficiency: float
    hop_latency_s: float
    rows: int
    median: float
    p90: float


def vidur_all_reduce(path: Path, device: str, source: str) -> pd.DataFrame:
    """Read microsoft/vidur's `all_reduce.csv`: bytes and workers, medians in ms. Left out: more than one host."""
    table = pd.read_csv(path)
    table = table[table["num_workers"] == table["devices_per_node"]]
    return _rows(device, source, table["num_workers"], table["size"], table["time_stats.all_reduce.median"] * 1e-3)


def apex_all_reduce(path: Path, device: str, source: str) -> pd.DataFrame:
    """Read microsoft/apex_plus's `all_reduce.csv`: kB and us. Left out: more than one host."""
    table = pd.read_csv(path)
    table = table[(table["num_nodes"] == 1) & (table["dtype"] == "half")]
    return _rows(device, source, table["num_gpus_per_node"], table["size(kb)"] * 1024, table["time(us)"] * 1e-6)


def aiconfigurator_all_reduce(path: Path, device: str, source: str) -> pd.DataFrame:
    """Read ai-dynamo/aiconfigurator's `custom_allreduce_perf.parquet`: elements of 2 bytes and ms.

    Left out: kernels launched one by one (`eager`), whose time is the host's.
    """
    table = pd.read_parquet(path)
    if "kernel_source" in table:
        table = table[~table["kernel_source"].str.contains("eager")]
    return _rows(device, source, table["num_gpus"], table["message_size"] * 2, table["latency"] * 1e-3)


def _rows(device: str, source: str, gpus: object, message_bytes: "pd.Series[float]", seconds: object) -> pd.DataFrame:
    link = "pcie" if load_device(device).nvlink_bytes_per_s is None else "nvlink"
    whole = pd.DataFrame({"gpus": gpus, "message_bytes": message_bytes, "seconds": seconds, "link": link})
    kept = whole[message_bytes >= SMALLEST_BYTES]
    return kernel_rows("all_reduce", device, source, {str(name): kept[name] for name in kept})


_PLACES: Final = (
    ("vidur/network/a100_dgx/all_reduce.csv.gz", vidur_all_reduce, "a100-80", VIDUR),
    ("vidur/network/h100_dgx/all_reduce.csv.gz", vidur_all_reduce, "h100-sxm", VIDUR),
    ("apex/comm/V100-PCIE-16GB/all_reduce.csv", apex_all_reduce, "v100-pcie-16", APEX),
    ("apex/comm/H100-SXM-80GB/all_reduce.csv", apex_all_reduce, "h100-sxm", APEX),
    ("apex/comm/H200-SXM-141GB/all_reduce.csv", apex_all_reduce, "h200", APEX),
    ("aiconfigurator/a100_sxm/comm/*/*/custom_*.parquet", aiconfigurator_all_reduce, "a100-80", AICONFIGURATOR),
    ("aiconfigurator/h100_sxm/comm/*/*/custom_*.parquet", aiconfigurator_all_reduce, "h100-sxm", AICONFIGURATOR),
    ("aiconfigurator/h200_sxm/comm/*/*/custom_*.parquet", aiconfigurator_all_reduce, "h200", AICONFIGURATOR),
)
"""Tables of GPUs that are all joined alike; pairs of cards on one bridge, with PCIe between pairs, are left out."""


def read_all_reduces(folder: Path) -> pd.DataFrame:
    """Return all published all-reduce tables below a folder as one; empty where there are none."""
    tables = []
    for pattern, read, device, repository in _PLACES:
        for path in sorted(folder.glob(pattern)):
            inside = path.relative_to(folder / pattern.split("/")[0]).as_posix().removesuffix(".gz")
            tables.append(read(path, device, f"{repository} {inside}"))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["source"])


def link_between(device: str, kind: str) -> Link:
    """Return the link that a table's rows ran over."""
    card = load_device(device)
    found = nvlink_of(card, load_link("nvlink")) if kind == "nvlink" else None
    return load_link(f"pcie{card.pcie_gen}") if found is None else found


def all_reduce_seconds(rows: pd.DataFrame, link: Link, comm_efficiency: float, hop_latency_s: float) -> Floats:
    """Return predicted seconds of all-reduces."""
    seconds = np.empty(len(rows))
    for gpus in rows["gpus"].unique():
        here = (rows["gpus"] == gpus).to_numpy()
        payload = rows["message_bytes"].to_numpy()[here]
        rate = float(link.bytes_per_s) * comm_efficiency
        seconds[here] = all_reduce_s(payload, int(gpus), rate, hop_latency_s)
    return seconds


def fit_links(table: pd.DataFrame) -> list[LinkFit]:
    """Fit every source of a table of all-reduces by itself, weighing octaves of the message size alike."""
    return [_fit(rows) for _, rows in table.groupby(["device", "link", "source"], sort=True)]


def _fit(rows: pd.DataFrame) -> LinkFit:
    first = rows.iloc[0]
    link = link_between(str(first["device"]), str(first["link"]))
    octave = np.floor(np.log2(rows["message_bytes"])).astype(int)
    out = (octave % 4 == 1).to_numpy()
    seen = rows[~out]
    crowd = octave[~out].map(octave[~out].value_counts()).to_numpy()
    weights = 1.0 / np.sqrt(crowd / crowd.mean())
    measured = np.log(seen["seconds"].to_numpy())
    low, high = np.log([_BOUNDS["comm_efficiency"], (1e-7, 1e-3)]).T

    def residuals(logs: Floats) -> Floats:
        off = np.log(all_reduce_seconds(seen, link, *np.exp(logs).tolist())) - measured
        return np.asarray(weights * off, dtype=np.float64)

    found = least_squares(residuals, np.log([0.6, 3e-6]), bounds=(low, high), loss="soft_l1", f_scale=0.1)
    share, latency_s = np.exp(found.x).tolist()
    off = np.abs(all_reduce_seconds(rows[out], link, share, latency_s) / rows["seconds"][out].to_numpy() - 1.0)
    median, p90 = float(np.median(off)), float(np.quantile(off, 0.9))
    names = (str(first["device"]), str(first["link"]), str(first["source"]))
    return LinkFit(*names, share, latency_s, int(out.sum()), median, p90)
