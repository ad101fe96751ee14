"""Hold models larger than the card against what papers and READMEs published: the tables of docs/published.md.

    python benchmarks/published.py            # print the tables
    python benchmarks/published.py --write    # and put them into the page

All rows are run with the shipped parameters. What a source leaves out (a drive, a server) is taken as the row says and
was set before the comparison; no parameter was turned to meet a row.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import afterwatt as aw
from afterwatt.sim.errors import Infeasible

PAGE = Path(__file__).parents[1] / "docs" / "published.md"
CLOSE = 0.25
"""Of the published figure: what counts as met."""


Figures = Mapping[str, float]


class Rig(NamedTuple):
    """A machine: device, host, drive, slot."""

    device: str
    host: str
    storage: str
    pcie: str


class Case(NamedTuple):
    """One row: what is run, and what the source says in tokens per second.

    Attributes:
        name: of the row; model, precision, policy: what is run.
        published: tokens per second; None: the source has no figure of this very case.
        batch: sequences together; prompt, output: tokens of each.
    """

    name: str
    model: str
    precision: str
    policy: str
    published: float | None
    batch: int = 1
    prompt: int = 64
    output: int = 64


class Source(NamedTuple):
    """Rows of one source on one machine, and what they count."""

    name: str
    rig: Rig
    figure: Callable[[Figures, Case], float]
    cases: Sequence[Case]


def decoding(run: Figures, case: Case) -> float:  # noqa: ARG001 - as all figures
    """Return tokens per second of one sequence after its first."""
    return 1.0 / run["tpot_mean_s"]


def together(run: Figures, case: Case) -> float:
    """Return tokens generated per second of the whole batch, prompts' time included."""
    return case.batch * case.output / run["e2e_max_s"]


def batched(name: str, model: str, precision: str, words: str, published: float, batch: int) -> Case:
    """Return a row of 512 tokens in and 32 out, whose prompts pass in batches of 24,576 tokens at most."""
    budget = min(batch * 512, 24_576)
    policy = f"{words}+seqs={batch}+budget={budget}"
    return Case(name, model, precision, policy, published, batch, 512, 32)


DESKTOP = Rig("rtx3090", "desktop", "nvme-gen3", "4x16")
A6000 = Rig("rtx-a6000", "ddr4-gen4-2u", "nvme-gen4", "4x16")
AWAY = "stream+kv-in=dram"
HOT = "m2cache+cache=static+cold=cpu+shares=int4:100+skew=0.7"
SOURCES = (
    Source(
        "M2Cache (arXiv:2410.14740): RTX 3090, 64 GB, PCIe 3.0 x4 disk, one sequence",
        DESKTOP,
        decoding,
        (
            Case("LLaMA-2-70B, ZeRO-Infinity", "llama-2-70b", "fp16", "stream", 0.02, output=8),
            Case("LLaMA-2-70B, attention in fp16", "llama-2-70b", "fp16", "m2cache+density=10", 0.3835),
            Case("LLaMA-2-70B, attention in int8", "llama-2-70b", "int8", "m2cache+density=10", 0.3835),
            Case(
                "the same, 20 layers in host memory",
                "llama-2-70b",
                "int8",
                "m2cache+density=10+dram=20/3",
                None,
                1,
                64,
                16,
            ),
            Case("LLaMA-2-13B", "llama-2-13b", "fp16", "m2cache+density=10", 4.62),
            Case("LLaMA-2-13B, all neurons in fp16", "llama-2-13b", "fp16", "m2cache+density=10+shares=fp16:100", None),
            Case("LLaMA-2-13B, overlap of chance", "llama-2-13b", "fp16", "m2cache+density=10+overlap=10.1", None),
        ),
    ),
    Source(
        "DeepSpeed ZeRO-Inference's README: RTX A6000, 252 GB, PCIe 4.0, 512 tokens in, 32 out",
        A6000,
        together,
        (
            batched("OPT-30B", "opt-30b", "fp16", AWAY, 12.5, 128),
            batched("OPT-66B", "opt-66b", "fp16", AWAY, 3.59, 40),
            batched("LLaMA-2-70B", "llama-2-70b", "fp16", AWAY, 2.85, 96),
            batched("OPT-30B", "opt-30b", "int4", AWAY, 17.53, 128),
            batched("OPT-66B", "opt-66b", "int4", AWAY, 8.02, 64),
            batched("OPT-175B", "opt-175b", "int4", AWAY, 2.09, 24),
            batched("BLOOM-176B", "bloom-176b", "int4", AWAY, 1.25, 24),
            batched("LLaMA-2-70B", "llama-2-70b", "int4", AWAY, 3.6, 200),
            batched("OPT-175B, cache on the GPU", "opt-175b", "int4", "stream", 1.12, 8),
            batched("BLOOM-176B, cache on the GPU", "bloom-176b", "int4", "stream", 0.59, 4),
            batched("LLaMA-2-70B, cache on the GPU", "llama-2-70b", "int4", "stream", 23.44, 96),
        ),
    ),
    Source(
        "FlexGen, as ZeRO-Inference's README has it, on the same machine",
        A6000,
        together,
        (
            batched("OPT-30B", "opt-30b", "fp16", AWAY, 10.9, 200),
            batched("OPT-66B", "opt-66b", "fp16", AWAY, 3.86, 80),
            batched("OPT-175B", "opt-175b", "fp16", f"{AWAY}+from=ssd", 0.33, 64),
            batched("OPT-30B", "opt-30b", "int4", AWAY, 10.9, 280),
            batched("OPT-66B", "opt-66b", "int4", AWAY, 5.29, 100),
            batched("OPT-175B", "opt-175b", "int4", AWAY, 1.67, 40),
        ),
    ),
    Source(
        "FlexGen's README: T4, 208 GB, 512 tokens in, 32 out",
        Rig("t4", "ddr4-2u", "nvme-gen3", "3x16"),
        together,
        (
            batched("OPT-30B", "opt-30b", "int4", AWAY, 8.38, 512),
            batched("OPT-175B", "opt-175b", "int4", AWAY, 1.12, 144),
            batched("OPT-30B, ZeRO-Inference", "opt-30b", "fp16", "stream", 0.6, 4),
            batched("OPT-175B, ZeRO-Inference", "opt-175b", "fp16", "stream+from=ssd", 0.01, 1),
        ),
    ),
    Source(
        "nTransformer: RTX 3090, 48 GB, PCIe 3.0 x8; how much lies on the GPU is not stated",
        DESKTOP._replace(pcie="3x8"),
        decoding,
        (
            Case("Llama-3.1-70B Q6_K", "llama-3.1-70b", "q6_k", "split=30/70", 0.2, output=8),
            Case("Llama-3.1-70B Q4_K_M", "llama-3.1-70b", "q4_k_m", "split=45/55", 0.3, output=8),
        ),
    ),
    Source(
        "LLM in a flash (arXiv:2312.11514): RTX 4090, half of the model read anew for each token; drive not stated",
        Rig("rtx4090", "desktop", "nvme-gen3", "4x16"),
        decoding,
        (Case("OPT-6.7B, naive", "opt-6.7b", "fp16", "split=50/0", 1 / 2.218, 1, 128, 16),),
    ),
    Source(
        "PowerInfer (arXiv:2312.12456): RTX 4090; 13.20 in the mean of models, 29.08 at most",
        Rig("rtx4090", "desktop-gen5", "nvme-gen4", "4x16"),
        decoding,
        (
            Case("OPT-30B int4", "opt-30b", "int4", f"{HOT}+density=5+room=60", None),
            Case("OPT-66B int4", "opt-66b", "int4", f"{HOT}+density=5+room=20", None),
            Case("Falcon-40B int4", "falcon-40b", "int4", f"{HOT}+density=5+room=40", None),
            Case("LLaMA-2-70B int4", "llama-2-70b", "int4", f"{HOT}+density=10+room=20", None),
        ),
    ),
    Source(
        "Mixtral offloading (Eliseev and Mazur): T4, experts in 2 to 3 bits, 2 to 4 tokens/s",
        Rig("t4", "desktop", "nvme-gen3", "3x16"),
        decoding,
        (Case("Mixtral-8x7B", "mixtral-8x7b", "q3_k_m", "expert-cache", None, 1, 128, 64),),
    ),
)


def simulated(case: Case, source: Source, rig: str) -> tuple[float, float] | None:
    """Return (tokens per second, GB to the GPU per token); None where it is refused."""
    words: dict[str, Any] = {"model": case.model, "precision": case.precision, "policy": case.policy}
    words |= {"batch": case.batch, "prompt": case.prompt, "output": case.output}
    try:
        run: Any = aw.compare(hw=rig, no_bounds=True, **words).loc[0]
    except Infeasible:
        return None
    moved_gb = run["moved_dram_to_hbm_bytes"] / case.output / case.batch / 1e9
    return source.figure(run, case), moved_gb


def table(source: Source, folder: Path) -> Iterator[str]:
    """Run a source's cases; return the lines of its table."""
    rig = folder / "rig.toml"
    rig.write_text("".join(f'{key} = "{said}"\n' for key, said in source.rig._asdict().items()), encoding="utf-8")
    yield f"**{source.name}**"
    yield f"(here: {', '.join(source.rig)})"
    yield ""
    yield "| case | policy | simulated, tokens/s | published | simulated / published | GB to the GPU per token |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for case in source.cases:
        found, said = simulated(case, source, str(rig)), "" if case.published is None else f"{case.published:.3g}"
        policy = re.sub(r"\+(seqs|budget)=\d+", "", case.policy)
        if found is None:
            yield f"| {case.name} | `{policy}` | refused: does not fit | {said} | | |"
            continue
        ratio = found[0] / case.published if case.published else None
        shown = "" if ratio is None else f"{ratio:.2f}{'' if abs(ratio - 1.0) <= CLOSE else ' (!)'}"
        yield f"| {case.name}, batch {case.batch} | `{policy}` | {found[0]:.3g} | {said} | {shown} | {found[1]:.2f} |"
    yield ""


def main() -> int:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    chosen = parser.parse_args()
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for source in SOURCES:
            for line in table(source, Path(folder)):
                print(line, flush=True)
                lines.append(line)
    if chosen.write:
        begin, end = "<!-- tables -->\n", "<!-- end -->"
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
        PAGE.write_text(before + begin + "\n".join(lines) + end + rest.partition(end)[2], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
