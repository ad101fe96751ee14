"""A serving run that somebody measured: its requests with the times of their tokens, and how the engine was set up.

Two kinds of set-up are understood in the `meta.json` beside the requests: `simulate`'s own words

    {"hw": "rtx4090", "model": "llama-3.1-8b", "precision": "bf16", "stack": "vllm",
     "policy": "chunked+kv=2587+watermark=0"}

and what a vLLM engine says of itself, as recorded by LLMServingSim's bench (`engine_kwargs`, `kv_cache`, `hardware`,
`resolved_config`). The requests are `requests.jsonl` or `requests.csv`, a row each, with times in seconds:

    prompt_tokens, output_tokens, arrival_s, first_token_s, finish_s

or vLLM's names for them (`COLUMNS`). All of one row's times must be of one clock. vLLM stamps `arrival_time` with the
wall clock and everything else with a monotonic one, so that its requests begin with `queued_ts`, the moment at which
the scheduler was given them.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from afterwatt.fidelity.cards import recognise
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.modelspecs import load_model
from afterwatt.modelspecs.errors import ModelError
from afterwatt.modelspecs.precision import Precision, load_precision
from afterwatt.modelspecs.resolve import resolve_model
from afterwatt.modelspecs.spec import ModelSpec
from afterwatt.policies.config import PolicySet, parse_policies
from afterwatt.policies.errors import PolicyError
from afterwatt.traces.schema import DEFAULT_BATCH_ROWS, Batch, TraceInfo

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt_tokens": ("prompt_tokens", "input_toks", "input_tokens", "num_prompt_tokens"),
    "output_tokens": ("output_tokens", "output_toks", "num_generation_tokens"),
    "arrival_s": ("arrival_s", "queued_ts", "arrival_time"),
    "first_token_s": ("first_token_s", "first_token_ts", "first_token_time"),
    "finish_s": ("finish_s", "last_token_ts", "finished_time"),
}
"""What a request must tell -> the names it may have, the first that is there counts."""
PROMPT_IDS: Final = "input_tok_ids"
_LONGEST_WAIT_S: Final = 1e6
_WORDS: Final = ("hw", "model", "precision")
_DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}


class ReplayError(ValueError):
    """A measured run cannot be read, or not be replayed."""


class RecordedTrace:
    """Requests in memory as a trace (see `traces.schema.Trace`)."""

    def __init__(self, name: str, batch: Batch, block_tokens: int | None) -> None:
        self._batch = batch
        self.info = TraceInfo(
            name,
            "measured run",
            len(batch),
            float(batch.arrival_s[-1]),
            has_prefixes=batch.prefixes is not None,
            prefix_block_tokens=block_tokens if batch.prefixes is not None else None,
        )

    def batches(self, size: int = DEFAULT_BATCH_ROWS) -> Iterator[Batch]:
        """Walk through them."""
        for start in range(0, len(self._batch), size):
            yield self._batch.sliced(start, start + size)

    def head(self, n: int) -> Batch:
        """Return the first n."""
        return self._batch.sliced(0, n)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ServingRun:
    """A measured run.

    Attributes:
        name: of its folder.
        hw: the deployment, as `simulate` takes it.
        model, precision, policies: what ran on it, and how.
        stack: the software's profile.
        trace: when which lengths arrived, from 0 on, in order of arrival.
        ttft_s, tpot_s: measured, in the trace's order; NaN where a request tells none (no token; a single one).
        notes: what was taken for what.
    """

    name: str
    hw: str
    model: ModelSpec
    precision: Precision
    policies: PolicySet
    stack: str
    trace: RecordedTrace
    ttft_s: Floats
    tpot_s: Floats
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _SetUp:
    hw: str
    model: ModelSpec
    precision: Precision
    policies: PolicySet
    stack: str
    notes: tuple[str, ...] = ()


def read_run(path: str | Path, prompts: str | Path | None = None) -> ServingRun:
    """Read a measured run.

    Args:
        path: a folder with `meta.json` and `requests.jsonl` or `requests.csv`, or such a file of requests in it.
        prompts: a file with the prompts' token ids (JSON lines or Parquet, `input_tok_ids`, in the order of the
            requests), from which equal beginnings are found; None: prompts share nothing, unless the rows hold ids.

    Raises:
        ReplayError: a file is missing or says nothing that could be replayed.
    """
    place = Path(path)
    requests = place if place.suffix in (".jsonl", ".csv") else _requests_file(place)
    set_up = _set_up(read_meta(requests.parent / "meta.json"), requests.parent / "meta.json")
    rows = _rows(requests)
    columns = {name: _column(rows, name, requests) for name in COLUMNS}
    arrival = columns["arrival_s"]
    _check(columns, requests)
    order = np.argsort(arrival, kind="stable")
    ids = _prompt_ids(rows, prompts, columns["prompt_tokens"])
    prefixes = None if ids is None else [block_hashes(ids[row], set_up.policies.block_tokens) for row in order]
    arrival, first, finish = (columns[name][order] for name in ("arrival_s", "first_token_s", "finish_s"))
    prompt, output = (columns[name][order].astype(np.int64) for name in ("prompt_tokens", "output_tokens"))
    batch = Batch(arrival - arrival[0], prompt, output, prefixes=prefixes)
    after_first = np.where(output > 1, output - 1.0, np.nan)
    return ServingRun(
        name=requests.parent.name,
        hw=set_up.hw,
        model=set_up.model,
        precision=set_up.precision,
        policies=set_up.policies,
        stack=set_up.stack,
        trace=RecordedTrace(str(requests), batch, set_up.policies.block_tokens),
        ttft_s=first - arrival,
        tpot_s=(finish - first) / after_first,
        notes=set_up.notes,
    )


def block_hashes(ids: Sequence[int], block_tokens: int) -> tuple[int, ...]:
    """Return a hash per full block of a prompt, each of all tokens up to its end: equal hashes, equal beginnings."""
    hashes = []
    so_far = b""
    for end in range(block_tokens, len(ids) + 1, block_tokens):
        block = np.asarray(ids[end - block_tokens : end], dtype="<i8").tobytes()
        so_far = blake2b(so_far + block, digest_size=8).digest()
        hashes.append(int.from_bytes(so_far, "little", signed=True))
    return tuple(hashes)


# -- requests ----------------------------------------------------------------------------------------------------------


def _requests_file(folder: Path) -> Path:
    for name in ("requests.jsonl", "requests.csv"):
        if (folder / name).exists():
            return folder / name
    raise ReplayError(
        f"{folder} holds neither requests.jsonl nor requests.csv; name a folder that does, or such a file"
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as fault:
        raise ReplayError(f"{path} cannot be read: {fault.strerror}; name a file of requests") from None
    if path.suffix == ".csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(text.splitlines()))
    else:
        try:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as fault:
            raise ReplayError(f"{path} is not JSON lines: {fault}; write one object per line") from None
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ReplayError(f"{path} holds no requests; write a row per request with {', '.join(COLUMNS)}")
    return rows


def _column(rows: Sequence[Mapping[str, Any]], name: str, path: Path) -> Floats:
    found = next((alias for alias in COLUMNS[name] if alias in rows[0]), None)
    if found is None:
        raise ReplayError(f"{path} has no column {name}; it may also be called {' or '.join(COLUMNS[name][1:])}")
    values = [row.get(found) for row in rows]
    try:
        return np.array([np.nan if value in (None, "") else float(value) for value in values])
    except (TypeError, ValueError):
        number, value = next((at, one) for at, one in enumerate(values, 1) if not _numeric(one))
        raise ReplayError(
            f"{path}, request {number}: {found} = {value!r} is no number; write seconds or tokens"
        ) from None


def _numeric(value: object) -> bool:
    try:
        float(value or 0)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _check(columns: Mapping[str, Floats], path: Path) -> None:
    """See that every request can be replayed and that its clock is one."""

    def refuse(wrong: NDArray[np.bool_], rule: str) -> None:
        if wrong.any():
            raise ReplayError(f"{path}, request {int(np.flatnonzero(wrong)[0]) + 1}: {rule}")

    arrival, first, finish = columns["arrival_s"], columns["first_token_s"], columns["finish_s"]
    for name in ("prompt_tokens", "output_tokens"):
        refuse(~(columns[name] >= 1.0), f"{name} must be at least 1; leave out what the engine refused")
    refuse(np.isnan(arrival), "it has no arrival; a replay needs to know when each request came")
    refuse(
        np.abs(first - arrival) > _LONGEST_WAIT_S,
        "its arrival and its first token are more than ten days apart, so of two clocks; give the arrival on the "
        "tokens' clock (vLLM's queued_ts)",
    )
    refuse(first < arrival, "its first token came before it arrived; check the columns")
    refuse(finish < first, "its last token came before its first; check the columns")


def _prompt_ids(
    rows: Sequence[Mapping[str, Any]], prompts: str | Path | None, lengths: Floats
) -> list[Sequence[int]] | None:
    if prompts is None:
        if PROMPT_IDS not in rows[0]:
            return None
        ids = [row.get(PROMPT_IDS) or [] for row in rows]
    elif Path(prompts).suffix == ".parquet":
        import pyarrow.parquet as pq

        ids = pq.read_table(prompts, columns=[PROMPT_IDS]).column(PROMPT_IDS).to_pylist()
    else:
        ids = [row.get(PROMPT_IDS) or [] for row in _rows(Path(prompts))]
    if [len(one) for one in ids] != lengths.astype(int).tolist():
        raise ReplayError(
            f"{prompts or 'the requests'}: the prompts' token ids are not as many as the requests say; "
            "give the file that the run was made with, in the same order"
        )
    return ids


# -- set-up ------------------------------------------------------------------------------------------------------------


def read_meta(path: Path) -> dict[str, Any]:
    """Read what a run says of its set-up.

    Raises:
        ReplayError: the file is missing or not a JSON object.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ReplayError(
            f"{path} is not there; write one beside the requests: "
            '{"hw": "rtx4090", "model": "llama-3.1-8b", "precision": "bf16", "policy": "chunked+kv=2587"}'
        ) from None
    except ValueError as fault:
        raise ReplayError(f"{path} is not JSON: {fault}; correct it") from None
    if not isinstance(meta, dict):
        raise ReplayError(f"{path} is not a JSON object; write hw, model, precision and policy")
    return meta


def _set_up(meta: Mapping[str, Any], path: Path) -> _SetUp:
    try:
        return _vllm(meta) if "engine_kwargs" in meta else _said(meta)
    except (PolicyError, HardwareError, ModelError, ReplayError) as fault:
        raise ReplayError(f"{path}: {fault}") from None


def _said(meta: Mapping[str, Any]) -> _SetUp:
    """Take `simulate`'s own words."""
    missing = [word for word in _WORDS if not isinstance(meta.get(word), str)]
    if missing:
        raise ReplayError(f"it does not say {' nor '.join(missing)}; write them as --{missing[0]} takes them")
    policies = parse_policies(str(meta.get("policy", PolicySet().name)))
    model, precision = load_model(meta["model"]), load_precision(meta["precision"])
    return _SetUp(meta["hw"], model, precision, policies, str(meta.get("stack", "vllm")))


def _vllm(meta: Mapping[str, Any]) -> _SetUp:
    """Translate what a vLLM engine says of itself."""
    asked = meta["engine_kwargs"]
    resolved = meta.get("resolved_config") or {}
    scheduling = resolved.get("scheduler_config") or {}
    cache = meta.get("kv_cache") or {}
    said = {**(resolved.get("model_config") or {}), **asked}
    model = resolve_model(str(asked["model"]))
    hw, notes = _cards(meta, int(asked.get("tensor_parallel_size") or 1), int(asked.get("data_parallel_size") or 1))
    blocks = cache.get("num_gpu_blocks")
    policies = PolicySet(
        batching="chunked" if scheduling.get("enable_chunked_prefill", True) else "prefill-first",
        share_prefixes=bool(cache.get("enable_prefix_caching", True)),
        token_budget=int(asked.get("max_num_batched_tokens") or 2048),
        max_seqs=int(asked.get("max_num_seqs") or 256),
        block_tokens=int(cache.get("block_size") or 16),
        kv_blocks=None if blocks is None else int(blocks) - 1,  # one is the null block, which holds nothing
        watermark_frac=0.0,
    )
    dtype = str(said.get("dtype", "bfloat16")).removeprefix("torch.")
    precision = said.get("quantization") or _DTYPES.get(dtype, dtype)
    if model.note:
        notes = (*notes, model.note)
    return _SetUp(hw, model.spec, load_precision(str(precision)), policies, str(meta.get("stack", "vllm")), notes)


def _cards(meta: Mapping[str, Any], tp: int, replicas: int) -> tuple[str, tuple[str, ...]]:
    """Return the deployment, and what was assumed about its cards; `hw` overrules what the engine recorded."""
    if isinstance(meta.get("hw"), str):
        return meta["hw"], ()
    name = (meta.get("hardware") or {}).get("device_name")
    if not isinstance(name, str):
        raise ReplayError('the record does not say which card it ran on; add "hw": "rtx4090", or 2xrtx4090:tp2, to it')
    card = recognise(name)
    count = tp * replicas
    return (card.device.key if count == 1 else f"{count}x{card.device.key}:tp{tp}"), card.assumed
