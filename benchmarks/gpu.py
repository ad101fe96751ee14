"""Measure the engine on one device; `benchmarks/gpu.sh` calls it.

    python benchmarks/gpu.py [--device cuda:0] [--out FILE.json]     # measure (a GPU: 6 to 8 minutes)
    python benchmarks/gpu.py --page FILE.json                        # the page of a measurement, on standard output

Parity with the processor in fp32; batch-1 decoding of a 7B shape as a share of the measured bandwidth; decoding at
batches 1 to 64; joules per token by the device's meter; `afterwatt calibrate`; `afterwatt validate`. On `--device cpu`
the shapes are small: that exercises the script and says nothing about a GPU. A part that fails is written down as
failed, and the exit status is 1.
"""

import argparse
import datetime as dt
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afterwatt.engine.model.bench import TorchBench
from afterwatt.engine.model.compute import LoadedModel, TorchCompute, load_model
from afterwatt.engine.model.config import ModelConfig, Rope
from afterwatt.engine.model.devices import DTYPES, capability_of, device_name, dtype_policy, find_device
from afterwatt.engine.model.machine import gpu_uuid
from afterwatt.engine.model.memory import plan_memory
from afterwatt.engine.model.options import ComputeOptions
from afterwatt.engine.model.random_checkpoint import shrunk, write_random
from afterwatt.engine.model.weights import allocate
from afterwatt.engine.runtime.compute import GREEDY, StepBatch
from afterwatt.engine.runtime.energy.choose import choose_meter
from afterwatt.engine.runtime.probes import QUICK, interleaved
from afterwatt.modelspecs import load_model as load_spec
from afterwatt.modelspecs.spec import ModelSpec

DECODE_TARGET = 0.60
PARITY_TARGET = 1e-4
BLOCK_TOKENS = 16
VALIDATE_LIMIT_S = 270.0
Part = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is run: shapes and amounts."""

    model: ModelSpec
    dtype: str
    context: int
    batches: tuple[int, ...]
    steps: int
    energy_s: float
    validated: tuple[str, ...]
    validation: tuple[str, ...]


def sizes_for(device: str) -> Sizes:
    """Return a GPU's sizes, or small ones for a processor."""
    spec = load_spec("llama-2-7b")
    if device.startswith("cuda"):
        native = dtype_policy(capability_of(torch.device(device))).weights
        dtype = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(native, "fp32")
        made: tuple[str, ...] = ("--like", "tinyllama-1.1b", "--dtype", "fp16")
        run: tuple[str, ...] = (
            "--requests",
            "200",
            "--loads",
            "60,110",
            "--repetitions",
            "1",
            "--rounds",
            "1",
            "--shrink",
            "2",
        )
        return Sizes(spec, dtype, 512, (1, 2, 4, 8, 16, 32, 64), 60, 6.0, made, run)
    small = shrunk(spec, layers=2, hidden=512, vocab=4000)
    made = ("--like", "llama-2-7b", "--layers", "2", "--hidden", "256", "--vocab", "1000", "--dtype", "fp32")
    run = ("--requests", "20", "--loads", "60,110", "--repetitions", "1", "--rounds", "1", "--shrink", "16",
           "--policy", "chunked+budget=256+seqs=8+kv=512")  # fmt: skip
    return Sizes(small, "fp32", 64, (1, 2, 4, 8), 8, 1.0, made, run)


def random_model(spec: ModelSpec, options: ComputeOptions) -> LoadedModel:
    """Make a model of random weights where it will run, without a checkpoint."""
    device = torch.device(options.device)
    policy = dtype_policy(capability_of(device), options.dtype)
    config = ModelConfig(spec, 1e-5, Rope(10_000.0), "silu", (1,), (2,))
    memory = plan_memory(config, policy, options, device)
    weights = allocate(config, policy, device)
    for tensor in weights.tensors():
        if tensor.dim() == 1:
            tensor.fill_(1.0)
        else:
            tensor.normal_(0.0, tensor.shape[-1] ** -0.5)
    return LoadedModel(config, weights, policy, device, memory)


def decoding(batch: int, context: int) -> StepBatch:
    """Return one iteration of so many sequences, each with so many tokens in memory."""
    blocks = -(-(context + 1) // BLOCK_TOKENS)
    tables = [list(range(number * blocks, (number + 1) * blocks)) for number in range(batch)]
    tokens = np.arange(3, 3 + batch, dtype=np.int64)
    ones = [1] * batch
    return StepBatch(list(range(batch)), tokens, ones, [context] * batch, 0, tables, [True] * batch, [GREEDY] * batch)


def compute_for(sizes: Sizes, device: str) -> tuple[TorchCompute, float]:
    """Return the large model with room for the largest batch, and the bytes of weights that an iteration reads."""
    most = max(sizes.batches)
    blocks = most * -(-(sizes.context + 1) // BLOCK_TOKENS)
    options = ComputeOptions(
        device,
        sizes.dtype,
        kv_blocks=blocks,
        block_tokens=BLOCK_TOKENS,
        max_seqs=most,
        max_batch_tokens=512,
        max_context=2 * sizes.context,
    )
    model = random_model(sizes.model, options)
    weights = model.weights
    unread = 0 if weights.head is weights.embedding else weights.embedding.nbytes  # of the table, one row a token
    return TorchCompute(model, options), float(weights.bytes - unread)


def step_seconds(compute: TorchCompute, batch: StepBatch, steps: int) -> float:
    """Return the median time of an iteration, tokens chosen and on the host."""
    for _ in range(3):
        compute.step(batch)
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        compute.step(batch)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


# -- parts -------------------------------------------------------------------------------------------------------------


def parity(device: str) -> Part:
    """Hold logits in fp32 on the device against the processor's, prompt and decoding, for the three families."""
    worst = {}
    for family, like in (("llama", "llama-2-7b"), ("mistral", "mistral-7b"), ("qwen2", "qwen2.5-7b")):
        spec = shrunk(
            load_spec(like), layers=2, hidden=256, heads=8, kv_heads=2, head_dim=32, vocab=500, max_context=512
        )
        with tempfile.TemporaryDirectory() as folder:
            write_random(spec, Path(folder) / "model", "fp32")
            logits = []
            for place in ("cpu", device):
                options = ComputeOptions(place, "fp32", kv_blocks=32, max_seqs=4, max_batch_tokens=256, graphs=None)
                compute = TorchCompute(load_model(Path(folder) / "model", options), options)
                ids = np.arange(100, dtype=np.int64) * 7 % 500
                prompt = StepBatch([0], ids, [100], [0], 1, [list(range(8))], [True], [GREEDY])
                after = StepBatch([0], ids[:1], [1], [100], 0, [list(range(8))], [True], [GREEDY])
                logits.append(torch.cat([compute.logits(one).cpu().clone() for one in (prompt, after)]))
                compute.close()
        worst[family] = float((logits[0] - logits[1]).abs().max())
    return {"largest_difference": worst, "target": PARITY_TARGET, "met": max(worst.values()) <= PARITY_TARGET}


def decode(sizes: Sizes, device: str) -> Part:
    """Time batch-1 decoding in turns with the best reader of the device's memory; then larger batches."""
    compute, weights = compute_for(sizes, device)
    kv = sizes.model.kv_bytes_per_token(DTYPES[sizes.dtype].itemsize)
    bench = TorchBench(device, 1, QUICK)
    rounds: list[dict[str, float]] = []
    for _ in range(5):
        reads = interleaved(bench.bandwidth_probes(), 1, 0.02)
        best = max(bench.array_bytes / statistics.median(samples) for samples in reads.values())
        step_s = step_seconds(compute, decoding(1, sizes.context), sizes.steps // 2)
        moved = weights + kv * sizes.context
        rounds.append({"bandwidth_bytes_per_s": best, "step_s": step_s, "share": moved / step_s / best})
    bench.close()
    by_batch = []
    for batch in sizes.batches:
        step_s = step_seconds(compute, decoding(batch, sizes.context), sizes.steps)
        by_batch.append({"batch": batch, "step_s": step_s, "tokens_per_s": batch / step_s})
    share = statistics.median(one["share"] for one in rounds)
    graphs = bool(compute.info.more["graphs"])
    compute.close()
    return {
        "model": sizes.model.name, "params": sizes.model.params, "dtype": sizes.dtype, "context_tokens": sizes.context,
        "graphs": graphs, "bytes_per_step": weights + kv * sizes.context, "rounds": rounds, "share": share,
        "target": DECODE_TARGET, "met": share >= DECODE_TARGET, "batches": by_batch,
    }  # fmt: skip


def energy(sizes: Sizes, device: str) -> Part:
    """Meter idling, then decoding at the smallest and at the largest batch."""
    compute, _ = compute_for(sizes, device)
    choice = choose_meter(device, uuid=gpu_uuid(torch.device(device)))
    found: list[Part] = []
    for batch in (0, sizes.batches[0], sizes.batches[-1]):
        work = decoding(batch, sizes.context) if batch else None
        if work is not None:
            step_seconds(compute, work, 2)
        choice.meter.start()
        begin, tokens = time.perf_counter(), 0
        while time.perf_counter() - begin < sizes.energy_s:
            if work is None:
                time.sleep(0.1)
            else:
                compute.step(work)
                tokens += batch
        reading = choice.meter.stop()
        per_token = None if reading.joules is None or not tokens else reading.joules / tokens
        found.append({"batch": batch, "tokens": tokens, "joules": reading.joules, "watts": reading.mean_w,
                      "j_per_token": per_token, "method": reading.method, "note": reading.note})  # fmt: skip
    compute.close()
    return {"runs": found, "refused": list(choice.refused)}


def command(folder: Path, *words: str, timeout_s: float = VALIDATE_LIMIT_S) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "cli", *words]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False)


def calibrate(folder: Path, device: str) -> Part:
    """Run `afterwatt calibrate --quick`."""
    done = command(folder, "calibrate", "--quick", "--device", device, "--out", "local", "--quiet")
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    found: Part = json.loads((folder / "local" / "calibration.json").read_text())
    return {"calibration": found, "device_toml": (folder / "local" / "device.toml").read_text()}


def validate(sizes: Sizes, folder: Path, device: str) -> Part:
    """Run `afterwatt validate` with the calibration of before."""
    made = command(folder, "model", "make-random", *sizes.validated, "--out", "model")
    if made.returncode:
        raise RuntimeError(made.stderr.strip())
    done = command(folder, "validate", "--model", "model", "--device", device, "--out", "validation", *sizes.validation)
    result = folder / "validation" / "validation.json"
    if done.returncode not in (0, 4) or not result.exists():
        raise RuntimeError(done.stderr.strip()[-2000:])
    found: Part = json.loads(result.read_text())
    return {"exit": done.returncode, "validation": found}


def measure(device: str) -> Part:
    """Run all parts; what fails says so and does not keep the others from running."""
    sizes = sizes_for(device)
    found: Part = {
        "schema": 1,
        "date_utc": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M}",
        "device": device_name(torch.device(device)),
        "capability": capability_of(torch.device(device)),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    folder = Path(tempfile.mkdtemp(prefix="afterwatt-gpu-"))
    parts: dict[str, Callable[[], Part]] = {
        "parity": lambda: parity(device),
        "decode": lambda: decode(sizes, device),
        "energy": lambda: energy(sizes, device),
        "calibrate": lambda: calibrate(folder, device),
        "validate": lambda: validate(sizes, folder, device),
    }
    try:
        for name, part in parts.items():
            begin = time.perf_counter()
            sys.stderr.write(f"{name} ...\n")
            try:
                found[name] = part()
            except Exception as fault:  # the other parts are still worth having
                traceback.print_exc()
                found[name] = {"failed": f"{type(fault).__name__}: {fault}"}
            found[name]["took_s"] = round(time.perf_counter() - begin, 1)
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found["took_s"] = round(sum(found[name]["took_s"] for name in parts), 1)
    return found


# -- the page ----------------------------------------------------------------------------------------------------------


def page_of(found: Part) -> str:
    """Write a measurement as Markdown."""
    lines = [f"# {found['device']}, {found['date_utc']} UTC", ""]
    lines += [
        f"Measured by `benchmarks/gpu.sh` in {found['took_s']:.0f} s; torch {found['torch']}, CUDA {found['cuda']}.",
        "",
    ]
    for name, title, write in (
        ("parity", "Parity with the processor, fp32", _parity_lines),
        ("decode", "Decoding", _decode_lines),
        ("energy", "Energy", _energy_lines),
        ("validate", "Predicted and measured", _validate_lines),
    ):
        part = found[name]
        lines += [f"## {title}", "", *(write(part) if "failed" not in part else [f"Failed: {part['failed']}"]), ""]
    return "\n".join(lines)


def _parity_lines(part: Part) -> list[str]:
    rows = [f"| {family} | {value:.2e} |" for family, value in part["largest_difference"].items()]
    return ["| family | largest difference of a logit |", "| --- | --- |", *rows, "", _said(part, "1e-4")]


def _decode_lines(part: Part) -> list[str]:
    rows = [f"| {one['batch']} | {1e3 * one['step_s']:.2f} | {one['tokens_per_s']:.0f} |" for one in part["batches"]]
    graphs = "with" if part["graphs"] else "without"
    what = f"{part['model']}, {part['dtype']}, {part['context_tokens']} tokens of context, {graphs} graphs"
    return [
        f"{what}: batch 1 reaches {part['share']:.1%} of the best measured bandwidth. {_said(part, '60 %')}",
        "",
        "| batch | ms per iteration | tokens/s |",
        "| --- | --- | --- |",
        *rows,
    ]


def _energy_lines(part: Part) -> list[str]:
    def known(value: float | None, digits: int) -> str:
        return "unknown" if value is None else f"{value:.{digits}f}"

    rows = [
        f"| {one['batch'] or 'idle'} | {known(one['watts'], 1)} | {known(one['j_per_token'], 3)} | {one['method']} |"
        for one in part["runs"]
    ]
    return ["| batch | W | J/token | method |", "| --- | --- | --- | --- |", *rows]


def _validate_lines(part: Part) -> list[str]:
    found = part["validation"]
    rows = []
    for load in found["loads"]:
        for one in load["figures"]:
            if one["error_frac"] is not None:
                cells = f"{one['predicted']:.4g} | {one['measured']:.4g} | {100 * one['error_frac']:+.1f} %"
                rows.append(f"| {load['frac']:.0%} | {one['name']} | {cells} |")
    head = ["| load | figure | predicted | measured | error |", "| --- | --- | --- | --- | --- |"]
    return [f"{found['model']}, {found['requests']} requests of {found['trace']}.", "", *head, *rows]


def _said(part: Part, target: str) -> str:
    return f"Target {target}: {'met' if part['met'] else 'missed'}."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cuda:0, or cpu to try the script out")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: docs/measurements/DEVICE-DATE.json)")
    parser.add_argument("--page", type=Path, metavar="FILE.json", help="print the page of a measurement")
    asked = parser.parse_args()
    if asked.page is not None:
        sys.stdout.write(page_of(json.loads(asked.page.read_text())) + "\n")
        return 0
    device = str(find_device(asked.device))
    found = measure(device)
    name = "-".join("".join(c if c.isalnum() else " " for c in found["device"]).lower().split())
    out = asked.out or Path("docs/measurements") / f"{name}-{found['date_utc'][:10]}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    sys.stderr.write(f"{out}\n")
    return int(any("failed" in part for part in found.values() if isinstance(part, dict)))


if __name__ == "__main__":
    sys.exit(main())
