"""Measure the engine on one device; `benchmarks/gpu.sh` calls it.

    benchmarks/gpu.sh [--device cuda:0] [--out DIR] [--parts parity,decode]   # measure: 7 minutes at most
    benchmarks/gpu.sh --plan                       # what would run on some cards, with bytes and seconds
    benchmarks/gpu.sh --page DIR/measurement.json  # the page of a measurement, on standard output

Parity with the processor in fp32; batch-1 decoding of a 7B shape as a share of the measured bandwidth; decoding at
batches 1 to 64; joules per token by the device's meter; `afterwatt calibrate`; `afterwatt validate`. Layers and batches
are those that the free memory holds. Everything is written under the one folder: `measurement.json` anew after each
part, `page.md` in the end. What is done by then outlives whatever ends the script. On `--device cpu` the shapes are
small: that exercises the script and says nothing about a GPU. A part that fails is written down as failed, and the exit
status is 1; one that lacks a package (pydantic, plotly, simpy) or time is left out, and says so.
"""

import argparse
import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from afterwatt.engine.model.bench import TorchBench
from afterwatt.engine.model.compute import LoadedModel, TorchCompute, load_model
from afterwatt.engine.model.devices import (
    DTYPES,
    capability_of,
    device_name,
    dtype_policy,
    find_device,
    memory_of,
    settle,
)
from afterwatt.engine.model.machine import gpu_uuid
from afterwatt.engine.model.memory import plan_memory
from afterwatt.engine.model.options import ComputeOptions
from afterwatt.engine.model.random_checkpoint import shrunk, write_random
from afterwatt.engine.model.weights import allocate
from afterwatt.engine.runtime.compute import GREEDY, StepBatch
from afterwatt.engine.runtime.energy.choose import choose_meter
from afterwatt.engine.runtime.energy.nvml import Nvml
from afterwatt.engine.runtime.energy.reading import MeterError
from afterwatt.engine.runtime.probes import QUICK, interleaved
from afterwatt.modelspecs import load_model as load_spec
from benchmarks.gpu_page import Part, page_of
from benchmarks.gpu_sizes import (
    BLOCK_TOKENS,
    WITHIN_S,
    Sizes,
    config_of,
    gpu_sizes,
    options_of,
    plan_lines,
    processor_sizes,
)

DECODE_TARGET = 0.60
PARITY_TARGET = 1e-4
NARROW_TARGET = 0.02
"""Of the largest logit: two layers round to 8 bits of mantissa, 0.4 % each time, and errors add up as squares."""
LEAST_VALIDATION_S = 45.0
RESULT, PAGE = "measurement.json", "page.md"


class LeftOutError(Exception):
    """A part that cannot be run here, and why."""


def sizes_for(device: torch.device) -> Sizes:
    """Return what a device runs."""
    memory, capability = memory_of(device), capability_of(device)
    if memory is None or capability is None:
        return processor_sizes()
    return gpu_sizes(capability, memory, torch.cuda.mem_get_info(device)[0])


def random_model(sizes: Sizes, options: ComputeOptions) -> LoadedModel:
    """Make a model of random weights where it will run, without a checkpoint."""
    device = torch.device(options.device)
    settle(device)
    policy = dtype_policy(capability_of(device), options.dtype)
    config = config_of(sizes.model, 2 * sizes.context)
    memory = plan_memory(config, policy, options, device)
    weights = allocate(config, policy, device)
    for tensor in weights.tensors():
        if tensor.dim() == 1:
            tensor.fill_(1.0)
        else:
            tensor.normal_(0.0, tensor.shape[-1] ** -0.5)
    return LoadedModel(config, weights, policy, device, memory)


def compute_for(sizes: Sizes, device: str) -> tuple[TorchCompute, float]:
    """Return the large model, its cache filled, and the bytes of weights that an iteration reads."""
    options = options_of(sizes, device)
    model = random_model(sizes, options)
    weights = model.weights
    unread = 0 if weights.head is weights.embedding else weights.embedding.nbytes  # of the table, one row a token
    compute = TorchCompute(model, options)
    compute.fill_cache()
    return compute, float(weights.bytes - unread)


def decoding(batch: int, context: int) -> StepBatch:
    """Return one iteration of so many sequences, each with so many tokens in memory."""
    blocks = -(-(context + 1) // BLOCK_TOKENS)
    tables = [list(range(number * blocks, (number + 1) * blocks)) for number in range(batch)]
    tokens = np.arange(3, 3 + batch, dtype=np.int64)
    ones = [1] * batch
    return StepBatch(list(range(batch)), tokens, ones, [context] * batch, 0, tables, [True] * batch, [GREEDY] * batch)


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
    """Hold logits on the device against the processor's, prompt and decoding: three families in fp32, one in bf16."""
    worst = {}
    for family, like in (("llama", "llama-2-7b"), ("mistral", "mistral-7b"), ("qwen2", "qwen2.5-7b")):
        right, found = (logits_of(like, "fp32", place, "fp32", (100, 1)) for place in ("cpu", device))
        worst[family] = float((right - found).abs().max())
    # Kernels of memory-efficient attention read masks in aligned pieces: 97 entries are one more than three of 32.
    pieces = (40, 57, 1)
    right = logits_of("llama-2-7b", "bf16", "cpu", "fp32", pieces)
    found = logits_of("llama-2-7b", "bf16", device, "bf16", pieces)
    narrow = float((right - found).abs().max() / right.abs().max())
    met = max(worst.values()) <= PARITY_TARGET and narrow <= NARROW_TARGET
    return {
        "largest_difference": worst,
        "target": PARITY_TARGET,
        "bf16_of_largest_logit": narrow,
        "bf16_target": NARROW_TARGET,
        "met": met,
    }


def logits_of(like: str, stored: str, device: str, dtype: str, pieces: tuple[int, ...]) -> torch.Tensor:
    """Return the logits after each piece of a text, fp32[pieces, vocab].

    Args:
        like: shipped model that a small one of random weights, with grouped queries, takes after.
        stored: format of its checkpoint.
        device: where it is loaded.
        dtype: format that it is loaded in.
        pieces: tokens of each; one of a single token decodes.
    """
    spec = shrunk(load_spec(like), layers=2, hidden=256, heads=8, kv_heads=2, head_dim=32, vocab=500, max_context=512)
    ids = np.arange(sum(pieces), dtype=np.int64) * 7 % 500
    options = ComputeOptions(device, dtype, kv_blocks=32, max_seqs=4, max_batch_tokens=256, graphs=None)
    with tempfile.TemporaryDirectory() as folder:
        write_random(spec, Path(folder) / "model", stored)
        compute = TorchCompute(load_model(Path(folder) / "model", options), options)
        past, logits = 0, []
        for size in pieces:
            some, prompts = ids[past : past + size], int(size > 1)
            batch = StepBatch([0], some, [size], [past], prompts, [list(range(8))], [True], [GREEDY])
            logits.append(compute.logits(batch).cpu().clone())
            past += size
        compute.close()
    return torch.cat(logits)


def decode(sizes: Sizes, device: str) -> Part:
    """Time batch-1 decoding in turns with the best reader of the device's memory; then larger batches."""
    compute, weights = compute_for(sizes, device)
    kv = sizes.model.kv_bytes_per_token(DTYPES[sizes.dtype].itemsize)
    bench = TorchBench(device, 1, QUICK)
    bench.load("computing", 2.0 if device != "cpu" else 0.0)  # clocks at rest are not what serving has
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
        work = decoding(batch, sizes.context)
        step_s = step_seconds(compute, work, sizes.steps)
        graph = compute.replays(work)
        by_batch.append({"batch": batch, "step_s": step_s, "tokens_per_s": batch / step_s, "graph": graph})
    share = statistics.median(one["share"] for one in rounds)
    products = compute.info.more["products"]
    compute.close()
    return {
        "model": sizes.model.name, "layers": sizes.model.layers, "params": sizes.model.params, "dtype": sizes.dtype,
        "context_tokens": sizes.context, "products": products, "bytes_per_step": weights + kv * sizes.context,
        "rounds": rounds, "share": share, "target": DECODE_TARGET, "met": share >= DECODE_TARGET, "batches": by_batch,
    }  # fmt: skip


def energy(sizes: Sizes, device: str) -> Part:
    """Meter idling, then decoding at the smallest and at the largest batch."""
    compute, _ = compute_for(sizes, device)
    choice = choose_meter(device, uuid=gpu_uuid(torch.device(device)))
    found: list[Part] = []
    for batch in (0, sizes.batches[0], sizes.batches[-1]):
        if not batch and device != "cpu":
            time.sleep(sizes.energy_s)  # clocks stay up for seconds after the weights were made
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
        found.append({
            "batch": batch, "tokens": tokens, "joules": reading.joules, "watts": reading.mean_w,
            "j_per_token": per_token, "method": reading.method, "covers": reading.covers, "note": reading.note,
        })  # fmt: skip
    compute.close()
    return {"runs": found, "refused": list(choice.refused)}


def command(folder: Path, timeout_s: float, *words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "afterwatt.cli", *words]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False)


def needs(*packages: str) -> None:
    """Raise `LeftOutError` where a package is missing."""
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise LeftOutError(f"{package} is not installed; pip install {package}") from None


def calibrate(folder: Path, device: str, left_s: float) -> Part:
    """Run `afterwatt calibrate --quick`."""
    needs("pydantic", "simpy")
    done = command(folder, left_s, "calibrate", "--quick", "--device", device, "--out", "local", "--quiet")
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    found: Part = json.loads((folder / "local" / "calibration.json").read_text())
    return {"calibration": found, "device_toml": (folder / "local" / "device.toml").read_text()}


def validate(sizes: Sizes, folder: Path, device: str, left_s: float) -> Part:
    """Run `afterwatt validate` with the calibration of before, as far as time allows."""
    needs("pydantic", "simpy", "plotly")
    if left_s < LEAST_VALIDATION_S:
        raise LeftOutError(f"{left_s:.0f} s are left; it takes {LEAST_VALIDATION_S:.0f} s at least")
    end_s = time.monotonic() + left_s
    if not (folder / "model").exists():
        made = command(folder, left_s, "model", "make-random", *sizes.validated, "--out", "model")
        if made.returncode:
            raise RuntimeError(made.stderr.strip())
    left_s = end_s - time.monotonic()
    words = ("--model", "model", "--device", device, "--out", "validation", "--within", f"{0.75 * left_s:.0f}")
    done = command(folder, left_s, "validate", *words, *sizes.validation)
    result = folder / "validation" / "validation.json"
    if done.returncode not in (0, 4) or not result.exists():
        raise RuntimeError(done.stderr.strip()[-2000:])
    found: Part = json.loads(result.read_text())
    return {"exit": done.returncode, "validation": found}


def about(device: torch.device) -> Part:
    """Return what is measured, and in which state it is."""
    state = {}
    if device.type == "cuda":
        try:
            state = Nvml(device.index or 0, gpu_uuid(device)).state()
        except MeterError as fault:
            state = {"nvml": str(fault)}
    return {
        "schema": 2,
        "date_utc": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M}",
        "device": device_name(device),
        "capability": capability_of(device),
        "memory_bytes": memory_of(device),
        "state": state,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(text)
    os.replace(partial, path)


def measure(device: torch.device, folder: Path, wanted: list[str] | None) -> Part:
    """Run the parts, writing everything found after each; what fails says so and keeps no other from running."""
    began_s: float = time.monotonic()
    name, found = str(device), about(device)
    sizes = sizes_for(device)

    def left_s() -> float:
        return float(max(1.0, WITHIN_S - (time.monotonic() - began_s)))

    parts: dict[str, Callable[[], Part]] = {
        "parity": lambda: parity(name),
        "decode": lambda: decode(sizes, name),
        "energy": lambda: energy(sizes, name),
        "calibrate": lambda: calibrate(folder, name, left_s()),
        "validate": lambda: validate(sizes, folder, name, left_s()),
    }
    for part, run in parts.items():
        begin_s = time.monotonic()
        sys.stderr.write(f"{part} ...\n")
        try:
            found[part] = run() if wanted is None or part in wanted else {"left_out": "not asked for"}
        except LeftOutError as why:
            found[part] = {"left_out": str(why)}
        except Exception as fault:  # the other parts are still worth having
            traceback.print_exc()
            found[part] = {"failed": f"{type(fault).__name__}: {fault}"}
        found[part]["took_s"] = round(time.monotonic() - begin_s, 1)
        found["took_s"] = round(time.monotonic() - began_s, 1)
        write_whole(folder / RESULT, json.dumps(found, indent=1) + "\n")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    write_whole(folder / PAGE, page_of(found) + "\n")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cuda:0, or cpu to try the script out")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where all results go [measured/DEVICE-DATE]")
    parser.add_argument("--parts", help="those to run, commas between [parity,decode,energy,calibrate,validate]")
    parser.add_argument("--plan", action="store_true", help="print what would run on some cards, and measure nothing")
    parser.add_argument("--page", type=Path, metavar="FILE.json", help="print the page of a measurement")
    asked = parser.parse_args()
    if asked.page is not None:
        sys.stdout.write(page_of(json.loads(asked.page.read_text())) + "\n")
        return 0
    if asked.plan:
        sys.stdout.write("\n".join(plan_lines()) + "\n")
        return 0
    device = find_device(asked.device)
    name = "-".join("".join(c if c.isalnum() else " " for c in device_name(device)).lower().split())
    folder = asked.out or Path("measured") / f"{name}-{dt.datetime.now(dt.UTC):%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    found = measure(device, folder.resolve(), asked.parts.split(",") if asked.parts else None)
    sys.stderr.write(f"{folder / RESULT}\n{folder / PAGE}\n")
    return int(any("failed" in part for part in found.values() if isinstance(part, dict)))


if __name__ == "__main__":
    sys.exit(main())
