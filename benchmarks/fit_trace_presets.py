"""Fit the workload presets to the public traces and write traces/data/presets.toml.

Run from the repository root, where ../shared/traces holds the traces (see docs/traces.md for their sources):

    python -m benchmarks.fit_trace_presets

What is kept are statistics: quantiles, one correlation, the shape of the gaps, a daily cycle, how prompts share
prefixes. No row of a trace is copied. Each preset ends with what was measured and what the preset gives in its place.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from afterwatt.traces.arrivals import Family, Gaps
from afterwatt.traces.opening import open_trace
from afterwatt.traces.presets import DAY_S, LengthCurve, Preset, parse_preset
from afterwatt.traces.schema import Batch, Floats, Ints
from afterwatt.traces.stats import describe
from afterwatt.traces.synth import SyntheticTrace

_PROBABILITIES = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75,
    0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999,
)  # fmt: skip
_ALL = 10**9
_WINDOW_S = 60
_BATCH_WINDOW_S = 30

_AZURE = "github.com/Azure/AzurePublicDataset b469a113 (Patel et al., Splitwise, ISCA 2024)"
_SERVEGEN = "github.com/alibaba/ServeGen f891d118"


def lengths(tokens: Ints) -> LengthCurve:
    """The quantile table of a sample, its outer knots at half a row from either end."""
    edge = 0.5 / len(tokens)
    probabilities = (edge, *(p for p in _PROBABILITIES if edge < p < 1 - edge), 1 - edge)
    values = np.quantile(tokens, probabilities, method="inverted_cdf")
    return LengthCurve(tuple(round(p, 8) for p in probabilities), tuple(float(v) for v in values))


def table_mean(table: LengthCurve) -> float:
    """Mean of the distribution a table stands for, by a fine midpoint sum over probability."""
    steps = 200_000
    scores = special.ndtri((np.arange(steps) + 0.5) / steps)
    return float(table.at_scores(scores).mean())


def shape_for_cv(family: Family, cv: float) -> float:
    """The shape at which a family of gaps has a coefficient of variation."""
    if family == "gamma":
        return 1 / cv**2
    return float(optimize.brentq(lambda shape: Gaps("weibull", shape).cv - cv, 0.12, 20))


def likelihoods(gaps_s: Floats) -> dict[str, float]:
    """Greatest mean log-likelihood per gap, in nats, of both families, with the shapes that reach it."""
    spread = math.log(gaps_s.mean()) - np.log(gaps_s).mean()
    gamma = optimize.brentq(lambda k: math.log(k) - special.digamma(k) - spread, 1e-4, 1e4)
    weibull, _, scale = stats.weibull_min.fit(gaps_s, floc=0)
    return {
        "gamma_nats": float(stats.gamma.logpdf(gaps_s, gamma, scale=gaps_s.mean() / gamma).mean()),
        "weibull_nats": float(stats.weibull_min.logpdf(gaps_s, weibull, scale=scale).mean()),
        "gamma_shape_ml": float(gamma),
        "weibull_shape_ml": float(weibull),
    }


def dispersion(arrival_s: Floats, window_s: int) -> float:
    """Variance over mean of the arrivals per window (whole windows only)."""
    counts = np.bincount((arrival_s // window_s).astype(int))[:-1]
    return float(counts.var() / counts.mean())


def fit_gaps(arrival_s: Floats) -> tuple[dict[str, Any], dict[str, Any]]:
    """The family that fits better by likelihood, at the measured coefficient of variation; and the measurements."""
    gaps_s = np.diff(arrival_s)
    found = likelihoods(gaps_s)
    family: Family = "gamma" if found["gamma_nats"] >= found["weibull_nats"] else "weibull"
    cv = float(gaps_s.std() / gaps_s.mean())
    shape = shape_for_cv(family, cv)
    measured = {"gap_cv": cv, f"dispersion_{_WINDOW_S}s": dispersion(arrival_s, _WINDOW_S), **found}
    return {"family": family, "shape": shape, "how": "family by likelihood, shape by the measured cv"}, measured


def fit_batched_gaps(arrival_s: Floats) -> tuple[dict[str, Any], dict[str, Any]]:
    """For arrivals stamped in batches: Gamma gaps whose limiting dispersion is that of windows of ten batches."""
    measured = dispersion(arrival_s, _BATCH_WINDOW_S)
    how = (
        f"arrivals are stamped in batches of 3 s: Gamma assumed, cv from the dispersion in {_BATCH_WINDOW_S} s windows"
    )
    return {"family": "gamma", "shape": 1 / measured, "how": how}, {f"dispersion_{_BATCH_WINDOW_S}s": measured}


def fit_daily(file: Path, source: str) -> dict[str, Any]:
    """First two harmonics of the day in ServeGen's total rate, relative to its mean.

    Also the part of the rate whose windows ServeGen itself found better described by Gamma than by Weibull gaps.
    """
    windows = pd.read_parquet(file, columns=["window_start_s", "rate"])
    rate = windows.groupby("window_start_s")["rate"].sum()
    turn = 2 * math.pi / DAY_S * (rate.index.to_numpy(float) + 300)
    waves = [wave(k * turn) for k in (1, 2) for wave in (np.cos, np.sin)]
    coefficients = np.linalg.lstsq(np.column_stack([np.ones_like(turn), *waves]), rate.to_numpy(), rcond=None)[0]
    pairs = coefficients[1:].reshape(2, 2) / coefficients[0]
    peaks = [math.atan2(s, c) / k / (2 * math.pi) * 24 % (24 / k) for k, (c, s) in enumerate(pairs, 1)]
    families = pd.read_parquet(file, columns=["rate", "pattern"]).groupby("pattern")["rate"].sum()
    return {
        "amplitude_frac": [float(a) for a in np.hypot(*pairs.T)],
        "peak_hour": peaks,
        "gamma_window_frac": float(families["Gamma"] / families.sum()),
        "source": f"{_SERVEGEN}, {source}; clock zero is local midnight, as its examples use it",
    }


def fit_lengths(whole: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Quantile tables, the copula's correlation, and how well they stand for the sample."""
    prompt, output = lengths(whole.prompt_tokens), lengths(whole.output_tokens)
    rank = float(stats.spearmanr(whole.prompt_tokens, whole.output_tokens).statistic)
    said = {
        "correlation": 2 * math.sin(math.pi * rank / 6),  # Spearman to Pearson of a Gaussian copula (Kruskal 1958)
        "prompt": {"probabilities": prompt.probabilities, "tokens": prompt.tokens},
        "output": {"probabilities": output.probabilities, "tokens": output.tokens},
    }
    measured = {"rows": len(whole), "spearman": rank}
    for name, tokens, table in (
        ("prompt", whole.prompt_tokens, prompt),
        ("output", whole.output_tokens, output),
    ):
        measured[f"{name}_mean_tokens"] = float(tokens.mean())
        measured[f"{name}_mean_error_frac"] = table_mean(table) / float(tokens.mean()) - 1
    return said, measured


def fit_sharing(whole: Batch, block_tokens: int) -> dict[str, Any]:
    """How often, by prompt length, and how much, a prompt continues an earlier one; and how far back that lies."""
    latest: dict[int, int] = {}
    shared, back = [], []
    for number, ids in enumerate(whole.prefixes or []):
        depth = 0
        while depth < len(ids) and ids[depth] in latest:
            depth += 1
        shared.append(depth)
        back.append(number - latest[ids[depth - 1]] if depth else 0)
        latest.update(dict.fromkeys(ids, number))
    depth_of, blocks = np.array(shared), -(-whole.prompt_tokens // block_tokens)
    follows = depth_of >= 2  # one block is the common system prompt
    fifth = np.searchsorted(np.quantile(whole.prompt_tokens, [0.2, 0.4, 0.6, 0.8]), whole.prompt_tokens)
    return {
        "block_tokens": block_tokens,
        "follow_frac": [float(follows[fifth == k].mean()) for k in range(5)],
        "share_frac": [float(q) for q in np.quantile((depth_of / blocks)[follows], np.linspace(0, 1, 17))],
        # A uniform pick among n live prompts lies n/2 back on average.
        "live_prompts": 2 * int(np.median(np.array(back)[follows])),
        "hit_frac": float(depth_of.sum() / blocks.sum()),
    }


def _azure(root: Path, name: str, about: str, daily: dict[str, Any]) -> dict[str, Any]:
    trace = open_trace(root / f"azure2023/AzureLLMInferenceTrace_{name}.csv")
    whole = trace.head(_ALL)
    gaps, measured = fit_gaps(whole.arrival_s)
    said, found = fit_lengths(whole)
    return {
        "about": about,
        "source": f"AzureLLMInferenceTrace_{name}.csv 2023, {_AZURE}",
        "licence": "CC-BY 4.0: attribution to the source; statistics only, no rows",
        "rate_per_s": len(whole) / float(whole.arrival_s[-1]),
        "gaps": gaps,
        **said,
        "daily": daily,
        "fit": found | measured | {"preset_gap_cv": Gaps(gaps["family"], gaps["shape"]).cv},
    }


def _summarisation(root: Path, chat: dict[str, Any], daily: dict[str, Any]) -> dict[str, Any]:
    file = "arxiv_summarization_stats_llama2_tokenizer_filtered_v2.parquet"
    whole = open_trace(root / "vidur" / file, rate_per_s=1.0).head(_ALL)
    said, found = fit_lengths(whole)
    return {
        "about": "papers summarised: long prompts, cut at 4,096 tokens in all",
        "source": f"{file}, github.com/microsoft/vidur 7d475133",
        "licence": "MIT; statistics only, no rows",
        "max_total_tokens": int((whole.prompt_tokens + whole.output_tokens).max()),
        "gaps": chat["gaps"] | {"how": "the source has no arrivals: chat's gaps (assumed)"},
        **said,
        "daily": daily,
        "fit": found,
    }


def _long_context(root: Path, daily: dict[str, Any]) -> dict[str, Any]:
    whole = open_trace(root / "mooncake/conversation_trace.parquet").head(_ALL)
    gaps, measured = fit_batched_gaps(whole.arrival_s)
    said, found = fit_lengths(whole)
    return {
        "about": "conversations over long documents, many of which continue an earlier one",
        "source": "conversation_trace.jsonl, github.com/kvcache-ai/Mooncake 3b5a5941 (FAST'25)",
        "licence": "Apache-2.0; statistics only, no rows",
        "rate_per_s": len(whole) / float(whole.arrival_s[-1]),
        "gaps": gaps,
        **said,
        "daily": daily,
        "sharing": fit_sharing(whole, 512),
        "fit": found | measured,
    }


def fit_all(root: Path) -> dict[str, dict[str, Any]]:
    """All presets, from the traces under `root`."""
    consumer = fit_daily(root / "servegen/m-small_trace.parquet", "m-small, 14 days")
    mixed = fit_daily(root / "servegen/m-large_trace.parquet", "m-large, 14 days")
    chat = _azure(root, "conv", "conversations with an assistant", consumer)
    return {
        "chat": chat,
        "code": _azure(root, "code", "code completion: short answers, bursts, minutes of silence", mixed),
        "summarisation": _summarisation(root, chat, mixed),
        "long-context": _long_context(root, mixed),
    }


def drawn(preset: Preset, rows: int) -> dict[str, Any]:
    """What a trace of the source's size, drawn from the preset with seed 0, is like."""
    found = describe(SyntheticTrace(preset, rate_per_s=preset.rate_per_s or 1.0, requests=rows))
    return {
        "drawn_prompt_mean_tokens": found["prompt_tokens"]["mean"],
        "drawn_output_mean_tokens": found["output_tokens"]["mean"],
        "drawn_spearman": found["spearman"],
        "drawn_gap_cv": found["gap_s"]["cv"],
        f"drawn_dispersion_{_WINDOW_S}s": found["dispersion"][f"{_WINDOW_S}s"],
    } | ({} if found["prefix"] is None else {"drawn_hit_frac": found["prefix"]["ideal_hit_frac"]})


def toml(presets: dict[str, dict[str, Any]], today: str) -> str:
    """The presets as TOML, numbers to six digits."""

    def value(item: object) -> str:
        if isinstance(item, (list, tuple)):
            return f"[{', '.join(value(x) for x in item)}]"
        if isinstance(item, float):
            text = f"{item:.8g}" if item > 0.99 and item < 1 else f"{item:.6g}"
            return text if any(mark in text for mark in ".en") else f"{text}.0"
        return json.dumps(item, ensure_ascii=False)

    lines = ["# Written by benchmarks/fit_trace_presets.py. Statistics of public traces; no row of any is copied here."]
    for name, said in presets.items():
        lines += ["", f"[{name}]", f"checked = {value(today)}"]
        lines += [f"{key} = {value(item)}" for key, item in said.items() if not isinstance(item, dict)]
        for key, table in said.items():
            if isinstance(table, dict):
                lines += ["", f"[{name}.{key}]", *(f"{inner} = {value(item)}" for inner, item in table.items())]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None, say: Callable[[str], object] = sys.stdout.write) -> None:
    """Fit, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"), help="folder of the public traces")
    parser.add_argument("--out", type=Path, default=Path("traces/data/presets.toml"), help="file to write")
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat(), help="date to note as that of the fit")
    chosen = parser.parse_args(arguments)
    presets = fit_all(chosen.traces)
    for name, said in presets.items():
        preset = parse_preset(name, tomllib.loads(toml({name: said}, chosen.date))[name])
        said["fit"] |= drawn(preset, said["fit"]["rows"])
    chosen.out.write_text(toml(presets, chosen.date), encoding="utf-8")
    say(f"wrote {chosen.out}\n")


if __name__ == "__main__":
    main()
