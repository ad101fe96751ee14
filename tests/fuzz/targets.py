"""What reads what users hand over, called in process: each takes seeds, damages one and reads it."""

import contextlib
import io
import itertools
import json
import math
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from afterwatt.cli.errors import exit_code_of, sentence_of
from tests.fuzz.mutate import damaged_bytes, damaged_parquet, damaged_text, damaged_words, json_bytes

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "corpus"
DATA = ROOT / "hwprofiles" / "data"
LONGEST_S = 5.0
MOST_BYTES = 1 << 30
Outcome = str
"""`ok`, `refused`, or what went wrong."""


@dataclass(frozen=True)
class Target:
    """One reader: `seeds` are sound inputs, `damage` makes another of one, `read` takes it from a folder."""

    name: str
    seeds: list[Any]
    damage: Callable[[random.Random, Any], Any]
    read: Callable[[Path, Any], None]

    def as_is(self, seed: Any) -> Any:
        """Return a seed in the form that is read, undamaged."""
        if not isinstance(seed, dict):
            return seed
        text = json.dumps(seed).encode()
        return len(text).to_bytes(8, "little") + text + bytes(32) if self.name == "safetensors" else text


@dataclass
class Count:
    """What came of a target's inputs."""

    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    faults: dict[str, tuple[int, Any]] = field(default_factory=dict)


class TooSlow(Exception):  # noqa: N818 - an alarm
    """An input that took longer than it may."""


def try_one(target: Target, folder: Path, given: Any) -> Outcome:
    """Read one input and tell what came of it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def alarm(*_: object) -> None:
        raise TooSlow

    old = signal.signal(signal.SIGPROF, alarm)  # the processor's time: others may want it too
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    outcome = "ok"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            target.read(folder, given)
    except TooSlow:
        outcome = f"takes more than {LONGEST_S:g} s"
    except Exception as fault:
        if exit_code_of(fault) is None:
            outcome = f"{type(fault).__name__} at {_place(fault)}"
        else:
            said = sentence_of(fault)
            outcome = "refused" if said and "\n" not in said and len(said) < 2000 else f"no sentence: {said[:80]!r}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
    if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 > MOST_BYTES:
        return "takes more than 1 GB"
    return outcome


def _place(fault: BaseException) -> str:
    """Name the last line of ours in a traceback."""
    at, place = fault.__traceback__, "?"
    while at is not None:
        file = Path(at.tb_frame.f_code.co_filename)
        if "afterwatt" in file.parts or ROOT in file.parents:
            place = f"{file.parent.name}/{file.name}:{at.tb_lineno}"
        at = at.tb_next
    return place


def fuzz(target: Target, folder: Path, seed: int, inputs: int) -> Count:
    """Read so many damaged inputs of one target; the same seed gives the same ones."""
    count = Count()
    began = time.perf_counter()
    for number in range(inputs):
        draw = random.Random(f"{target.name} {seed} {number}")
        given = target.damage(draw, draw.choice(target.seeds))
        outcome = try_one(target, folder, given)
        count.inputs += 1
        count.refused += outcome == "refused"
        if outcome not in ("ok", "refused"):
            times, first = count.faults.get(outcome, (0, given))
            count.faults[outcome] = (times + 1, first if len(repr(first)) <= len(repr(given)) else given)
    count.seconds = time.perf_counter() - began
    return count


def _written(name: str, call: Callable[[str], Any]) -> Callable[[Path, Any], None]:
    """Read a file of one name by a call that takes its path."""

    def read(folder: Path, content: Any) -> None:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        call(str(path))

    return read


def _any_text(draw: random.Random, content: str) -> str | bytes:
    return damaged_bytes(draw, content.encode()) if draw.random() < 0.3 else damaged_text(draw, content)


def _texts(*paths: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in paths]


def _hardware() -> Iterator[Target]:
    from afterwatt.hwprofiles.catalogue import load_device, load_host, load_site, load_storage
    from afterwatt.hwprofiles.deployment import make_deployment, parse_deployment
    from afterwatt.hwprofiles.power import gpu_power_model
    from afterwatt.hwprofiles.replicas import replica_power
    from afterwatt.hwprofiles.serving import Serving
    from afterwatt.hwprofiles.stacks import load_pools, load_stack
    from afterwatt.hwprofiles.step import StepModel
    from afterwatt.modelspecs import load_model
    from afterwatt.modelspecs.precision import load_precision
    from afterwatt.policies.config import PolicySet
    from afterwatt.sim.memory import plan_memory

    site, model, precision = load_site("fr"), load_model("llama-2-7b"), load_precision("fp16")

    def device(path: str) -> None:
        found = load_device(path)
        pool = make_deployment(found).pool
        step = StepModel(Serving(make_deployment(found), model, precision, load_stack(found)))
        gpu_power_model(found, step.rates.computed_in)
        replica_power(pool, site, "whole")
        plan_memory(step.serving, PolicySet())

    yield Target("device", _texts(*sorted((DATA / "gpus").glob("m*.toml"))), _any_text, _written("a.toml", device))
    yield Target("host", _texts(*(DATA / "hosts").glob("d*.toml")), _any_text, _written("a.toml", load_host))
    yield Target("disk", _texts(*(DATA / "storage").glob("*.toml")), _any_text, _written("a.toml", load_storage))
    yield Target("site", _texts(*(DATA / "sites").glob("f*.toml")), _any_text, _written("a.toml", load_site))
    stated = '{ value = 0.7, low = 0.5, high = 0.9, source = "own" }'
    own = '[sources]\nown = { text = "measured at home", checked = 2026-11-20, kind = "fitted" }\n'
    stack = (
        f'inherits = "generic"\n{own}[m40-24]\nbasis = "fitted"\nmem_efficiency = {stated}\n'
        f'[maxwell]\nseen = ["dense:int4"]\nquantised_in = "fp16"\n[maxwell.spread]\ndecode = {stated}\n'
    )
    yield Target("stack", [stack], _any_text, _written("a.toml", load_pools))
    hw = [
        'device = "m40"\ncount = 4\ntp = 2\nhost = "ddr4-4u"\nnetwork = "ethernet-25g"\nstorage = "sata"\necc = true\n'
    ]
    yield Target("deployment", hw, _any_text, _written("a.toml", parse_deployment))


def _models() -> Iterator[Target]:
    from afterwatt.modelspecs import load_model, stored_precision
    from afterwatt.modelspecs.precision import PRECISIONS

    def model(path: str) -> None:
        spec = load_model(path)
        stored_precision(spec.stored)
        spec.kinds()
        assert spec.params > 0
        assert spec.kv_bytes_per_token() > 0
        for name in ("fp16", "q4_k_m", "awq"):
            assert 0 < spec.stored_bytes(PRECISIONS[name].name) < math.inf

    configs = [
        {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512,
         "intermediate_size": 128, "max_position_embeddings": 512, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
         "rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "eos_token_id": [1, 2], "tie_word_embeddings": False},
        {"model_type": "gemma3", "text_config": {"hidden_size": 64, "num_hidden_layers": 6, "sliding_window": 16}},
        {"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 99, "num_experts": 8, "num_experts_per_tok": 2,
         "moe_intermediate_size": 32, "intermediate_size": 64, "quantization_config": {"quant_method": "fp8"}},
        {"model_type": "deepseek_v3", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
         "vocab_size": 99, "kv_lora_rank": 16, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
         "v_head_dim": 8, "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1,
         "intermediate_size": 64, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
    ]  # fmt: skip
    yield Target("config.json", configs, json_bytes, _written("config.json", model))
    catalogue = _texts(*sorted((ROOT / "modelspecs" / "data").glob("**/llama-3*.toml")))
    yield Target("model", catalogue, _any_text, _written("a.toml", model))


def _checkpoints() -> Iterator[Target]:
    from afterwatt.engine.runtime.layout import read_layout
    from afterwatt.engine.runtime.text import text_of

    head = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "__metadata__": {"format": "pt"},
    }

    def damage(draw: random.Random, value: Any) -> bytes:
        text = json_bytes(draw, value)
        length = len(text) if draw.random() < 0.8 else draw.choice((0, 2**31, 2**63, len(text) + 1))
        return length.to_bytes(8, "little") + text + bytes(draw.choice((32, 0, 31, 4096)))

    def shard(folder: Path, content: bytes) -> None:
        (folder / "model.safetensors").write_bytes(content)
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
        read_layout(folder)

    def index(folder: Path, content: bytes) -> None:
        text = json.dumps(head).encode()
        (folder / "model-1.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(32))
        (folder / "model.safetensors").unlink(missing_ok=True)
        (folder / "model.safetensors.index.json").write_bytes(content)
        read_layout(folder)

    yield Target("safetensors", [head], damage, shard)
    listed = {"metadata": {"total_size": 32}, "weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"}}
    yield Target("index", [listed], json_bytes, index)
    with contextlib.suppress(ImportError):
        import tokenizers  # noqa: F401 - the extra that reads them

        words = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}}
        words |= {"truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}}
        yield Target(
            "tokenizer", [words], json_bytes, _written("tokenizer.json", lambda path: text_of(Path(path).parent, 9))
        )


def _traces() -> Iterator[Target]:
    from afterwatt.reports.schema import to_json
    from afterwatt.traces import describe, open_trace

    def read(path: str) -> None:
        to_json(describe(open_trace(path)))

    fine = CORPUS / "traces" / "fine"
    texts = _texts(*sorted(fine.glob("*.csv")), *sorted(fine.glob("*.jsonl")))
    yield Target("trace", texts, _any_text, _written("a", read))
    own = pa.table({"arrival_s": [0.0, 1.0, 2.5], "prompt_tokens": [5, 6, 7], "output_tokens": [1, 2, 3],
                    "class": ["a", "b", "a"], "prefix_hashes": [[1], [], [1, 2]],
                    "prefix_block_tokens": [4, 4, 4]})  # fmt: skip
    azure = pa.table({"TIMESTAMP": ["2023-11-16 18:15:46.6805900", "2023-11-16 18:15:50.9951690"],
                      "ContextTokens": [374, 396], "GeneratedTokens": [44, 109]})  # fmt: skip
    tables = [_parquet(own.drop_columns(["prefix_hashes", "prefix_block_tokens"])), _parquet(own), _parquet(azure)]
    yield Target("trace.parquet", tables, damaged_parquet, _written("a.parquet", read))

    def chunk(folder: Path, content: Any) -> None:
        (folder / "chunk-0-dataset.json").write_text('{"0":{"input_tokens":"{5: 1.0}","output_tokens":"{3: 1.0}"}}')
        _written("chunk-0-trace.csv", read)(folder, content)

    def lengths(folder: Path, content: bytes) -> None:
        (folder / "chunk-0-trace.csv").write_text("0,1.5,1.0,Gamma,1.0,1.0\n600,2,1.0,Weibull,0.9,1\n")
        (folder / "chunk-0-dataset.json").write_bytes(content)
        read(str(folder / "chunk-0-trace.csv"))

    yield Target("servegen", ["0,1.5,1.0,Gamma,1.0,1.0\n600,2,1.0,Weibull,0.9,1\n"], _any_text, chunk)
    drawn_from = {"0": {"input_tokens": "{5: 0.5, 7: 0.5}", "output_tokens": "{3: 1.0}"}}
    yield Target("servegen lengths", [drawn_from], json_bytes, lengths)


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _grids() -> Iterator[Target]:
    from afterwatt.hwprofiles.gridfiles import load_grid

    hours = [f"2023-01-01T0{hour}:00:00Z" for hour in range(6)]
    head = "timestamp_utc,zone,gco2_per_kwh,kind,estimated,source\n"
    texts = [
        head + "".join(f"{at},FR,{50 + n},lifecycle,false,x\n" for n, at in enumerate(hours)),
        "hour_of_year,FR\n" + "".join(f"{n},{50 + n}\n" for n in range(6)),
        "Datetime (UTC),Zone id,Carbon intensity gCO₂eq/kWh (Life cycle)\n" + "".join(f"{at},FR,90\n" for at in hours),
    ]
    yield Target("grid", texts, _any_text, _written("a.csv", load_grid))
    columns = {"timestamp_utc": hours, "zone": ["FR"] * 6, "gco2_per_kwh": [50.0 + n for n in range(6)],
               "kind": ["lifecycle"] * 6, "estimated": [False] * 6, "source": ["x"] * 6}  # fmt: skip
    yield Target("grid.parquet", [_parquet(pa.table(columns))], damaged_parquet, _written("a.parquet", load_grid))


def _results(sound: Path) -> Iterator[Target]:
    """The files of a run and a study, of which `sound` holds one; without checksums, which would tell them all."""
    from afterwatt.reports.entry import entries
    from afterwatt.reports.html import comparison_context, run_context
    from afterwatt.reports.rundir import vouched_for
    from afterwatt.reports.terminal import default_console, print_runs
    from afterwatt.studies.running import runs_in

    drawn = itertools.count()

    def read(folder: Path) -> None:
        runs = runs_in([folder])
        with vouched_for(runs):
            print_runs(runs, default_console(), None)
            if next(drawn) % 10 == 0:  # figures take a third of a second
                group = entries(runs)
                comparison_context(group, None) if len(group) > 1 else run_context(group[0])

    name = next(path.parent.name for path in sorted(sound.glob("*/manifest.json")))
    for file in ("manifest.json", "summary.json"):
        yield Target(
            file, [json.loads((sound / name / file).read_text())], json_bytes, _beside(sound / name, file, read)
        )
    for file in ("requests", "timeline", "itl", "draws"):
        seeds = [(sound / name / f"{file}.parquet").read_bytes()]
        yield Target(file, seeds, damaged_parquet, _beside(sound / name, f"{file}.parquet", read))
    yield Target(
        "study.json", [json.loads((sound / "study.json").read_text())], json_bytes, _beside(sound, "study.json", read)
    )


def _beside(sound: Path, file: str, call: Callable[[Path], None]) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        copy = folder / f"of-{sound.name}-{file}"
        if not copy.exists():
            shutil.copytree(sound, copy, ignore=shutil.ignore_patterns("SHA256SUMS", "report.html"))
        (copy / file).write_bytes(content)
        call(copy)

    return read


def _words() -> Iterator[Target]:
    import typer

    from afterwatt.cli.main import simulate_app
    from afterwatt.studies.config import gather
    from afterwatt.studies.plan import plan_study

    command = typer.main.get_command(simulate_app())

    def line(_: Path, words: list[str]) -> None:
        Path("g.csv").write_text("time,a\n" + "".join(f"2023-01-01T{hour:02}:00:00Z,50\n" for hour in range(24)))
        quiet = ["--dry-run", "--no-report", "--no-bounds"]
        command.main(args=[*words, *quiet], standalone_mode=False)

    lines = [
        ["--hw", "2xa100-80:tp2", "--policy", "chunked+kv=400+seqs=64", "--slo", "ttft=1s,tpot=200ms", "--rate", "2"],
        ["--hw", "m40", "--trace", "synth:chat?n=20&rate=0.5&seed=3", "--precision", "q4_k_m", "--site", "fr"],
        ["--hw", "l4", "--users", "8", "--requests", "20", "--think", "2s", "--seed", "4", "--horizon", "1h"],
        ["--hw", "p40", "--stack", "llama.cpp-cuda", "--batch", "8", "--prompt", "128", "--output", "16"],
        ["--hw", "m40", "--model", "llama-3.1-8b", "--start", "2023-06-01T00:00:00Z", "--pue", "1.2", "--draws", "64"],
        [
            "--hw",
            "t4",
            "--grid",
            "g.csv?column=a&unit=g/kWh&basis=lifecycle&zone=FR",
            "--start",
            "2023-01-01T00:00:00Z",
        ],
        ["--hw", "m40", "--trace", "synth:fixed?prompt=10&output=5&n=10&rate=1&cv=0", "--host", "ddr3-2u"],
        ["--hw", "h100", "--allocation", "front-loaded", "--embodied", "act", "--site", "fr", "--duty", "0.5"],
    ]
    yield Target("words", lines, damaged_words, line)

    def study(path: str) -> None:
        plan_study(gather({"no_report": True}, path))

    text = 'hw = ["m40", "l4"]\nmodel = "llama-2-7b"\nrate = 0.5\nlimit = 5\nslo = "ttft=1s"\nseed = 3\nsite = ["fr"]\n'
    yield Target("study", [text], _any_text, _written("a.toml", study))


def _measured() -> Iterator[Target]:
    from afterwatt.fidelity.kernels.table import read_kernels
    from afterwatt.fidelity.points.table import read_points

    kernels = ["op,device,m,n,k,seconds,source\ngemm,m40,1,4096,4096,0.001,own\ngemm,m40,8,4096,4096,0.002,own\n"]
    yield Target("kernels", kernels, _any_text, _written("a.csv", read_kernels))
    points = "".join((ROOT / "fidelity" / "data" / "points.csv").read_text(encoding="utf-8").splitlines(True)[:4])
    yield Target("points", [points], _any_text, _written("a.csv", read_points))


def targets(sound: Path) -> list[Target]:
    """Return all targets; `sound` is a folder that holds a study of small runs."""
    groups = (_hardware(), _models(), _checkpoints(), _traces(), _grids(), _results(sound), _words(), _measured())
    return [target for group in groups for target in group]


def make_sound(folder: Path) -> Path:
    """Run the small study whose files are damaged."""
    from afterwatt.studies.config import gather
    from afterwatt.studies.running import run_study

    said = {"hw": ["m40", "l4"], "trace": "synth:chat?n=12&rate=0.5", "no_report": True, "draws": 16, "quiet": True}
    run_study(gather(said), folder / "sound")
    return folder / "sound"


@contextlib.contextmanager
def kept_here(folder: Path) -> Iterator[None]:
    """Work in a folder of one's own, with only so much memory that a greedy input fails before the machine does."""
    before = Path.cwd()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, hard))
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
