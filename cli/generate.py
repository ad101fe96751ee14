"""`afterwatt generate`: a prompt in, text out, and what it took."""

import json as jsons
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from afterwatt.cli import flags
from afterwatt.cli.extra import needs_engine
from afterwatt.cli.output import print_json
from afterwatt.studies.errors import OptionError

if TYPE_CHECKING:
    from afterwatt.engine.model.options import TierOptions
    from afterwatt.engine.runtime.compute import ComputeInfo, Ints
    from afterwatt.engine.runtime.energy.reading import EnergyMeter, MeterReading
    from afterwatt.engine.runtime.process import WorkerProcess
    from afterwatt.engine.runtime.request import Request
    from afterwatt.engine.runtime.text import Text
    from afterwatt.hwprofiles.devices import Device

BLOCK_TOKENS: Final = 16


def generate(
    model: Annotated[str, flags.opt("DIR", "A checkpoint: config.json and safetensors.")],
    prompt: Annotated[str | None, flags.opt("TEXT", "Text to go on from; - reads it.")] = None,
    ids: Annotated[str | None, flags.opt("N,...", "The prompt as token ids.")] = None,
    tokens: Annotated[int, flags.opt("N", "Most tokens to produce.")] = 128,
    temperature: Annotated[float, flags.opt("T", "0 takes the likeliest.")] = 0.0,
    top_k: Annotated[int, flags.opt("K", "Among so many of the likeliest; 0: all.")] = 0,
    seed: Annotated[int, flags.opt("N", "Of the choice of tokens.")] = 0,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end-of-text token.")] = False,
    device: flags.Device = "auto",
    dtype: flags.Dtype = "auto",
    threads: flags.Threads = 1,
    policy: Annotated[
        str | None,
        flags.opt("WORDS", "Of a prepared model: where its networks lie, as in stream or m2cache+shares=int8:100."),
    ] = None,
    stored: Annotated[str | None, flags.opt("PRECISION", "That they are read in [the widest prepared].")] = None,
    dram_budget: Annotated[str | None, flags.opt("SIZE", "Host memory for them, as 2GB [half of the free].")] = None,
    hbm_budget: Annotated[str | None, flags.opt("SIZE", "Device memory for what a cache keeps of them.")] = None,
    record: Annotated[str | None, flags.opt("FILE", "Write active units and bytes moved to FILE, .npz.")] = None,
    hw: Annotated[
        str | None,
        flags.opt("DIR", "What `afterwatt calibrate` wrote: its watts stand in for a meter that is not there."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print tokens and figures as JSON.")] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Continue a prompt with a real model, and print tokens per second and, where they are known, joules per token.

    A first try:

        afterwatt generate --model DIR --prompt "def main(" --tokens 64
    """
    needs_engine("generate")
    _check(tokens, temperature, top_k)
    if (prompt is None) == (ids is None):
        raise OptionError("give either --prompt TEXT or --ids 1,2,3")
    from afterwatt.engine.model.devices import find_device
    from afterwatt.engine.model.options import ComputeOptions, TorchComputeFactory
    from afterwatt.engine.runtime.compute import Sampling
    from afterwatt.engine.runtime.energy.choose import choose_meter
    from afterwatt.engine.runtime.process import WorkerProcess, WorkerSetup
    from afterwatt.engine.runtime.request import Request
    from afterwatt.modelspecs import load_model
    from afterwatt.policies.config import PolicySet

    directory = Path(model)
    if not (directory / "config.json").exists():
        raise OptionError(f"--model {model!r} has no config.json; name a checkpoint's folder")
    vocab = load_model(str(directory / "config.json")).vocab
    text, prompt_ids = _prompt(directory, vocab, prompt, ids)
    tiers = _tiers(policy, stored, (dram_budget, hbm_budget), record)
    blocks = -(-(len(prompt_ids) + tokens) // BLOCK_TOKENS) + 1
    place, watts = str(find_device(device)), _watts(hw)
    options = ComputeOptions(
        place, dtype, kv_blocks=blocks, block_tokens=BLOCK_TOKENS, threads=threads, max_seqs=1, tiers=tiers
    )
    setup = WorkerSetup(PolicySet(max_seqs=1, block_tokens=BLOCK_TOKENS, watermark_frac=0.0), flush_ns=0)
    worker = WorkerProcess(TorchComputeFactory(directory, options), setup)
    try:
        stop = frozenset() if ignore_eos else frozenset(worker.info.more.get("eos_ids", ()))
        request = Request(0, prompt_ids, tokens, 0, Sampling(temperature, seed, top_k), stop)
        meter = choose_meter(place, watts, uuid=worker.info.more.get("uuid")).meter
        told = _streamed(worker, request, text, meter, show=not (json or quiet))
    finally:
        worker.stop()
    if record is not None:
        told["moved"] = _moved(Path(record))
    _print(told, worker.info, json, quiet)


def _check(tokens: int, temperature: float, top_k: int) -> None:
    if tokens < 1 or temperature < 0.0 or top_k < 0:
        wrong = "--tokens" if tokens < 1 else "--temperature" if temperature < 0.0 else "--top-k"
        raise OptionError(f"{wrong} is out of range; --tokens is at least 1, --temperature and --top-k are 0 or more")


def _tiers(
    policy: str | None, stored: str | None, budgets: tuple[str | None, str | None], record: str | None
) -> "TierOptions | None":
    """Return where a prepared model's networks lie; None: a plain checkpoint's."""
    from afterwatt.engine.model.options import TierOptions
    from afterwatt.policies.config import parse_policies

    said = {"--stored": stored, "--dram-budget": budgets[0], "--hbm-budget": budgets[1], "--record": record}
    if policy is None:
        if named := [name for name, value in said.items() if value is not None]:
            raise OptionError(f"{named[0]} is for prepared models, whose networks --policy places; add --policy stream")
        return None
    dram, hbm = (_size(name, said[name]) for name in ("--dram-budget", "--hbm-budget"))
    target = None if record is None else Path(record)
    if target is not None and not target.absolute().parent.is_dir():
        raise OptionError(f"--record {record!r} is in no folder that exists; make it first")
    return TierOptions(policies=parse_policies(policy), precision=stored, dram_bytes=dram, hbm_bytes=hbm, record=target)


def _size(option: str, said: str | None) -> int | None:
    """Read bytes: 4096, 512MB, 2GB, 1.5TB."""
    if said is None:
        return None
    match = re.fullmatch(r"([0-9]{1,15})(\.[0-9]{1,6})?\s*([kMGT]?)B?", said)
    if match is None:
        raise OptionError(f"{option} {said[:40]!r} is no size; write bytes, or 512MB, 2GB")
    number = float(match[1] + (match[2] or ""))
    return round(number * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[match[3]])


def _moved(path: Path) -> dict[str, int]:
    """Return the bytes that a recording says were moved, by tier and reason."""
    import numpy as np

    with np.load(path) as found:
        moved: dict[str, int] = jsons.loads(str(found["moved"]))
    return moved


def _watts(hw: str | None) -> "Device | None":
    """Return the profile that a calibration has written; None: no calibration is named."""
    from afterwatt.hwprofiles.deployment import parse_deployment

    if hw is None:
        return None
    if not (Path(hw) / "device.toml").exists():
        raise OptionError(f"--hw {hw!r} holds no device.toml; name a folder that `afterwatt calibrate` wrote")
    return parse_deployment(str(Path(hw) / "device.toml")).pool.device


def _prompt(directory: Path, vocab: int, prompt: str | None, ids: str | None) -> "tuple[Text | None, Ints]":
    """Return how tokens spell text (None: nothing tells), and the prompt's tokens."""
    import numpy as np

    from afterwatt.engine.runtime.text import text_of

    text = text_of(directory, vocab)
    if ids is not None:
        try:
            found = np.array([int(word) for word in ids.split(",")], dtype=np.int64)
        except ValueError:
            raise OptionError(f"--ids {ids!r} is no list of token ids; write for example 1,306,4658") from None
    elif text is None:
        raise OptionError(f"{directory} has no tokenizer.json, and its tokens are not bytes; give --ids 1,2,3")
    else:
        found = text.encode(sys.stdin.read() if prompt == "-" else str(prompt))
    if not len(found) or found.min() < 0 or found.max() >= vocab:
        raise OptionError(f"the prompt must hold at least one token id, each from 0 to {vocab - 1}")
    return text, found


def _streamed(
    worker: "WorkerProcess", request: "Request", text: "Text | None", meter: "EnergyMeter", show: bool
) -> dict[str, Any]:
    """Run one request, showing its text as it comes: tokens and times."""
    import dataclasses
    import time

    from afterwatt.engine.runtime.errors import EngineError

    meter.start()
    begin_ns = time.monotonic_ns()
    worker.submit([dataclasses.replace(request, arrival_ns=begin_ns)])
    produced: list[int] = []
    token_ns: list[int] = []
    shown = 0
    done = False
    while not done:
        report = worker.poll(None, busy=True)
        assert report is not None
        if report.refusals:
            raise EngineError(f"the request cannot be served ({report.refusals[0].reason}); ask for fewer tokens")
        for step in report.steps:
            produced += [token for _, token in step.emitted]
            token_ns += [step.done_ns] * len(step.emitted)
            done = done or bool(step.finished)
        if show and text is not None:
            whole = text.decode(produced)
            sure = len(whole) if done else len(whole.rstrip("\ufffd"))  # the end of a letter may be yet to come
            sys.stdout.write(whole[shown:sure])
            sys.stdout.flush()
            shown = max(shown, sure)
    energy = meter.stop((time.monotonic_ns() - begin_ns) * 1e-9)
    return _told(request, produced, token_ns, begin_ns, energy, text)


def _told(
    request: "Request",
    produced: list[int],
    token_ns: list[int],
    begin_ns: int,
    energy: "MeterReading",
    text: "Text | None",
) -> dict[str, Any]:
    after_s = (token_ns[-1] - token_ns[0]) * 1e-9
    return {
        "prompt_tokens": len(request.prompt_ids),
        "output_tokens": len(produced),
        "output_ids": produced,
        "text": None if text is None else text.decode(produced),
        "ttft_s": (token_ns[0] - begin_ns) * 1e-9,
        "tpot_s": after_s / (len(produced) - 1) if len(produced) > 1 else None,
        "energy_j": energy.joules,
        "energy_j_per_token": None if energy.joules is None else energy.joules / len(produced),
        "energy_method": energy.method,
    }


def _print(told: dict[str, Any], info: "ComputeInfo", json: bool, quiet: bool) -> None:
    from afterwatt.reports.format import duration, number

    if json:
        print_json(told)
        return
    if quiet:
        sys.stdout.write(f"{told['text'] if told['text'] is not None else told['output_ids']}\n")
        return
    sys.stdout.write("\n" if told["text"] is not None else f"{told['output_ids']}\n")
    rate = "" if told["tpot_s"] is None else f", {number(1.0 / told['tpot_s'])} tokens/s"
    joules = told["energy_j_per_token"]
    energy = "energy unknown" if joules is None else f"{number(joules)} J/token ({told['energy_method']})"
    sys.stderr.write(
        f"\n{told['output_tokens']} tokens after {told['prompt_tokens']}: "
        f"first after {duration(told['ttft_s'])}{rate}; {energy}; {info.model} in {info.dtype} on {info.device}\n"
    )
