"""Splitwise's measured runs: Llama-2-70B in fp16 on DGX A100 and DGX H100 over 2, 4 and 8 GPUs.

The table is `data/perf_model.csv` of github.com/Mutinifni/splitwise-sim (Patel et al., Splitwise, ISCA 2024); its
columns are listed in `COLUMNS`. Each set-up (GPU, tensor-parallel degree, prompt length, batch, longest answer) ran
several times. What one has to know to read it:

- rows of a power-capped H100 are the H100's own with prompt times times 1.3: scaled, not measured, hence left out;
- power columns of 0 are missing, not zero;
- `token_size` is the longest answer allowed. Where a model stopped earlier, the run took less time than so many tokens
  do, and the tokens answered follow from that (`Setup.answered_tokens`);
- where a run took far longer than its prompt and its tokens together, the batch did not fit into memory and ran in
  parts (64 prompts on two GPUs, 15 and 17 times as long). Prompt and token times are those of one part, whose size
  follows from how much longer the run took (`Setup.in_parts`, `Setup.batch_at_once`).
"""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from afterwatt.fidelity.points.table import Metric, Point, PointsError

COLUMNS: Final = (
    "model",
    "hardware",
    "prompt_size",
    "batch_size",
    "token_size",
    "peak_power",
    "average_power",
    "prompt_time",
    "token_time",
    "e2e_time",
    "tensor_parallel",
)
SYNTHETIC: Final = ("h100-80gb-pcap",)
HARDWARE: Final = MappingProxyType({"a100-80gb": "a100-80", "h100-80gb": "h100-sxm"})
"""The table's names -> cards of the catalogue: both are DGX machines, hence SXM cards on NVSwitch."""
MODELS: Final = MappingProxyType({"llama2-70b": "llama-2-70b", "bloom-176b": "bloom-176b"})
SOURCE: Final = "Splitwise-sim measured"
URL: Final = "github.com/Mutinifni/splitwise-sim data/perf_model.csv @8f99e7d (Splitwise, arXiv:2311.18677)"
STACK: Final = "splitwise"
STOPPED_EARLY: Final = 0.95
"""Below this share of the time that all allowed tokens would take, an answer ended before (repeats differ by 3 %)."""
IN_PARTS: Final = 1.5
"""Above this multiple of it, the batch ran in parts (the largest of all others is 1.17: some of 32 waited)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitwiseRun:
    """One row of the table, in SI units.

    Attributes:
        row: line of the file; the header is line 1.
        hardware, model: the table's names.
        tp: tensor-parallel degree.
        prompt_tokens, batch, output_tokens: of the run; output tokens are the most allowed.
        peak_frac, average_frac: power as shares of the TDP; None where it was not measured.
        ttft_s, tpot_s, e2e_s: prompt time of the whole batch, time per token after, and all of it.
    """

    row: int
    hardware: str
    model: str
    tp: int
    prompt_tokens: int
    batch: int
    output_tokens: int
    peak_frac: float | None
    average_frac: float | None
    ttft_s: float
    tpot_s: float
    e2e_s: float


@dataclass(frozen=True, slots=True)
class Setup:
    """All repeats of one set-up.

    Attributes:
        hardware, model, tp, prompt_tokens, batch, output_tokens: as of its runs.
        runs: in the order of the table.
    """

    hardware: str
    model: str
    tp: int
    prompt_tokens: int
    batch: int
    output_tokens: int
    runs: tuple[SplitwiseRun, ...]

    @property
    def name(self) -> str:
        """How lists call it."""
        return f"{self.hardware} TP{self.tp} {self.batch} x {self.prompt_tokens} + {self.output_tokens}"

    @property
    def _taken(self) -> float:
        """Time that the runs took, in units of what prompt and all allowed tokens take."""
        return statistics.median(run.e2e_s / (run.ttft_s + (run.output_tokens - 1) * run.tpot_s) for run in self.runs)

    @property
    def in_parts(self) -> bool:
        """Whether the batch cannot have run at once."""
        return self._taken > IN_PARTS

    @property
    def batch_at_once(self) -> int:
        """Prompts that ran together: the batch, or as many of it as the time the runs took allows for."""
        return max(1, round(self.batch / self._taken)) if self.in_parts else self.batch

    @property
    def answered_tokens(self) -> int:
        """Tokens of an answer: all allowed, or what fits into the time the runs took (median of the repeats)."""
        if self._taken >= STOPPED_EARLY:
            return self.output_tokens
        answered = statistics.median(1.0 + (run.e2e_s - run.ttft_s) / run.tpot_s for run in self.runs)
        return max(2, min(self.output_tokens, round(answered)))

    def points(self) -> tuple[Point, Point]:
        """Return the set-up as two measured points: medians of TTFT and TPOT over its repeats."""

        def point(metric: Metric, value: float) -> Point:
            return Point(
                row=self.runs[0].row,
                source=SOURCE,
                url=URL,
                device=HARDWARE[self.hardware],
                gpus=self.tp,
                stack=STACK,
                model=MODELS[self.model],
                batch=self.batch,
                prompt_tokens=self.prompt_tokens,
                output_tokens=self.answered_tokens,
                metric=metric,
                value=value,
            )

        ttft_s = statistics.median(run.ttft_s for run in self.runs)
        tpot_s = statistics.median(run.tpot_s for run in self.runs)
        return point("ttft_s", ttft_s), point("tpot_s", tpot_s)


def read_runs(path: str | Path) -> tuple[list[SplitwiseRun], int]:
    """Read the table.

    Returns:
        (measured runs, how many synthetic rows were left out).

    Raises:
        PointsError: the file cannot be read, or a row is not of this form.
    """
    name = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PointsError(f"cannot read {name}: {error}; give splitwise-sim's perf_model.csv") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
        raise PointsError(f"{name}: column {missing[0]!r} is missing; the columns are {', '.join(COLUMNS)}")
    runs: list[SplitwiseRun] = []
    synthetic = 0
    for cells in reader:
        if cells["hardware"] in SYNTHETIC:
            synthetic += 1
        else:
            runs.append(_run(name, reader.line_num, cells))
    return runs, synthetic


def _run(name: str, row: int, cells: Mapping[str, str]) -> SplitwiseRun:
    for column, known in (("hardware", HARDWARE), ("model", MODELS)):
        if cells[column] not in known:
            raise PointsError(f"{name}, row {row}: {column} {cells[column]!r} is not known; known: {', '.join(known)}")

    def number(column: str) -> float:
        try:
            value = float(cells[column])
        except (TypeError, ValueError):
            value = -1.0
        if not 0.0 <= value < 1e9:
            raise PointsError(f"{name}, row {row}, column {column}: {cells[column]!r} must be a number from 0 to 1e9")
        return value

    def count(column: str) -> int:
        value = number(column)
        if value != int(value) or value < 1:
            raise PointsError(f"{name}, row {row}, column {column}: {cells[column]!r} must be a whole number from 1")
        return int(value)

    def milliseconds(column: str) -> float:
        value = number(column) * 1e-3
        if value == 0.0:
            raise PointsError(f"{name}, row {row}, column {column}: no run takes 0 ms; fill it in or remove the row")
        return value

    return SplitwiseRun(
        row=row,
        hardware=cells["hardware"],
        model=cells["model"],
        tp=count("tensor_parallel"),
        prompt_tokens=count("prompt_size"),
        batch=count("batch_size"),
        output_tokens=count("token_size"),
        peak_frac=number("peak_power") or None,
        average_frac=number("average_power") or None,
        ttft_s=milliseconds("prompt_time"),
        tpot_s=milliseconds("token_time"),
        e2e_s=milliseconds("e2e_time"),
    )


def setups_of(runs: Iterable[SplitwiseRun]) -> list[Setup]:
    """Gather the repeats of each set-up, in the order in which set-ups first appear."""
    gathered: dict[tuple[str, str, int, int, int, int], list[SplitwiseRun]] = {}
    for run in runs:
        key = (run.hardware, run.model, run.tp, run.prompt_tokens, run.batch, run.output_tokens)
        gathered.setdefault(key, []).append(run)
    return [Setup(*key, tuple(group)) for key, group in gathered.items()]
