"""M2Cache against its fair rivals: bytes per token and what they cost in quality, on two small trained models.

    python benchmarks/tradeoff.py            # print the tables of docs/modular.md; a few minutes

Of each density and mix of precisions: KL from full precision on held-out text (`engine.model.evaluation`, neurons
ranked for each token by the size of their gates), how many of a token's neurons the one before had (recorded while the
engine decodes), and the bytes that cross to the GPU (only neurons that are new) and come from the disk (whole layers)
per token, networks only. Beside them the whole model streamed in int8 and int4. Full precision counts 16 bits. A row is
marked where no other row of the table moves as few bytes to the GPU at no larger KL.
"""

import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from afterwatt.engine.model.compute import LoadedModel, TorchCompute, load_model
from afterwatt.engine.model.evaluation import Sample, evaluate_policies
from afterwatt.engine.model.options import ComputeOptions, TierOptions
from afterwatt.engine.runtime.compute import GREEDY, StepBatch
from afterwatt.engine.runtime.preparing import plan_prepare, prepare
from afterwatt.modelspecs.bundles import neuron_bytes
from afterwatt.policies.config import parse_policies

DATA = Path(__file__).parents[1] / "tests" / "data"
MODELS = ("tiny-llama", "tiny-llama-relu")
DENSITIES = (100, 50, 25, 10)
MIXES = {"fp16": (100, 0, 0), "25/25/50": (25, 25, 50), "int8": (0, 100, 0), "int4": (0, 0, 100)}
TOKENS, WINDOW, PROMPT, DECODED = 4096, 256, 64, 192


class Row(NamedTuple):
    """One policy: its name, KL and its error in nats, bytes per token to the GPU and from the disk."""

    name: str
    kl: float
    kl_error: float
    gpu_bytes: float
    disk_bytes: float


def variant(density: int, mix: tuple[int, int, int], wide: str) -> str:
    """Return what `afterwatt evaluate` calls it."""
    parts = zip((wide, "int8", "int4"), mix, strict=True)
    return "/".join(f"{name}:{density * share / 100:g}" for name, share in parts if share) + "+rank=gate"


def mean_bytes(hidden: int, mix: tuple[int, int, int]) -> float:
    """Return the bytes of a neuron in the mean of a mix."""
    return sum(
        neuron_bytes(hidden, name) * share / 100 for name, share in zip(("fp16", "int8", "int4"), mix, strict=True)
    )


def fresh_share(modular: Path, ids: np.ndarray, density: int, record: Path) -> float:
    """Return the share of a token's active neurons that the token before did not have, in the mean."""
    tiers = TierOptions(policies=parse_policies(f"m2cache+density={density}"), precision="int8", record=record)
    options = ComputeOptions(kv_blocks=20, threads=1, tiers=tiers)
    compute = TorchCompute(load_model(modular, options), options)
    past, tokens = 0, ids[:PROMPT].tolist()
    for _ in range(DECODED):
        batch = StepBatch(
            seq_ids=[0],
            tokens=np.array(tokens, dtype=np.int64),
            query_tokens=[len(tokens)],
            past_tokens=[past],
            prompts=int(not past),
            block_tables=[list(range(18))],
            emits=[True],
            sampling=[GREEDY],
        )
        compute.step(batch)
        past, tokens = past + len(tokens), [int(ids[past + len(tokens)])]  # the text's own next token
    compute.close()
    with np.load(record) as found:
        layers, offsets, units = int(found["layers"]), found["offsets"], found["units"]
    active = [units[begin:end] for begin, end in itertools.pairwise(offsets)]
    new = [
        1.0 - len(np.intersect1d(active[at], active[at - layers])) / len(active[at])
        for at in range(2 * layers, len(active))  # the first token after the prompt has no token before it
    ]
    return float(np.mean(new))


def rows_of(loaded: LoadedModel, folder: Path, ids: np.ndarray, scratch: Path) -> list[Row]:
    """Measure one model."""
    prepare(plan_prepare(folder, scratch / "modular"))
    spec, wide = loaded.config.spec, "fp32"
    every = spec.layers * spec.ffn
    names = {(d, mix): variant(d, shares, wide) for d in DENSITIES for mix, shares in MIXES.items()}
    sample = Sample(ids[:TOKENS], "")
    found = evaluate_policies(loaded, sample, list(names.values()), WINDOW)["policies"]
    told = dict(zip([wide, "int8", "int4", *names.values()], found, strict=True))
    rows = [
        Row(f"stream-{name}", told[name]["kl_nats"], told[name]["kl_error_nats"], size, size)
        for name in ("int8", "int4")
        for size in [every * neuron_bytes(spec.hidden, name)]
    ]
    for density in DENSITIES:
        fresh = 1.0 if density == 100 else fresh_share(scratch / "modular", ids, density, scratch / "seen.npz")
        for mix, shares in MIXES.items():
            if density == 100 and mix in ("int8", "int4"):
                continue  # those are the streams
            line, size = told[names[density, mix]], every * mean_bytes(spec.hidden, shares)
            crossing = size * density / 100 * fresh
            kept = f", {1.0 - fresh:.0%} as before" if density < 100 else ""
            rows.append(Row(f"{density} % of {mix}{kept}", line["kl_nats"], line["kl_error_nats"], crossing, size))
    return rows


def main() -> int:
    """Print a table for each model."""
    import tempfile

    from afterwatt.engine.runtime.text import text_of

    for name in MODELS:
        loaded = load_model(DATA / name, ComputeOptions(kv_blocks=1, threads=1))
        text = text_of(DATA / name, loaded.config.spec.vocab)
        assert text is not None
        ids = text.encode((DATA / "held-out.txt").read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as scratch:
            rows = rows_of(loaded, DATA / name, ids, Path(scratch))
        best = [all(o.gpu_bytes >= r.gpu_bytes or o.kl > r.kl for o in rows if o is not r) for r in rows]
        print(f"**{name}**\n\n| networks | KL, nats | kB to the GPU | kB from the disk | |")
        print("| --- | ---: | ---: | ---: | --- |")
        for row, alone in sorted(zip(rows, best, strict=True), key=lambda one: one[0].gpu_bytes):
            mark = "best at its bytes" if alone else ""
            print(
                f"| {row.name} | {row.kl:.5f} ± {row.kl_error:.5f} | {row.gpu_bytes / 1e3:.0f} | "
                f"{row.disk_bytes / 1e3:.0f} | {mark} |"
            )
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
