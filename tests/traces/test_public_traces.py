"""The public traces, where they lie beside the repository: every row is read and the published figures come out."""

from pathlib import Path

import numpy as np
import pytest

from afterwatt.traces import describe, open_trace, write_csv, write_parquet
from afterwatt.traces.presets import load_preset

SHARED = Path(__file__).parents[2] / "../shared/traces"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the public traces do not lie in ../shared/traces")

# file: (format, rows, span_s, prompt p50/p90/p99/max, output p50/p90/p99/max, gap cv)
PUBLISHED = {
    "azure2023/AzureLLMInferenceTrace_code.csv": (
        "azure-2023", 8819, 3435.9, (1469, 5187, 7436, 7437), (13, 55, 251, 1899), 13.15,
    ),
    "azure2023/AzureLLMInferenceTrace_conv.csv": (
        "azure-2023", 19366, 3501.7, (1020, 2734, 4142, 14050), (129, 424, 601, 1000), 1.09,
    ),
    "mooncake/conversation_trace.parquet": (
        "mooncake", 12031, 3537.0, (6909, 27367, 85400, 126195), (350, 597, 1118, 2000), 3.03,
    ),
    "mooncake/synthetic_trace.jsonl": (
        "mooncake", 3993, 1022.0, (11587, 38611, 66456, 191378), (69, 389, 768, 893), 1.01,
    ),
    "sharegpt_llmservingsim/sharegpt-llama-3.1-8b-300-sps10.parquet": (
        "llmservingsim", 300, 29.1, (731, 1460, 2765, 3998), (632, 770, 784, 1021), 0.94,
    ),
    "sharegpt_llmservingsim/sharegpt-qwen3-32b-300-sps10.parquet": (
        "llmservingsim", 300, 29.1, (728, 1451, 2768, 4570), (638, 785, 1001, 1224), 0.94,
    ),
    "vidur/splitwise_code.csv": ("vidur", 8819, 3435.9, (1469, 5187, 7436, 7437), (13, 55, 251, 1899), 13.15),
    "vidur/splitwise_conv.parquet": ("vidur", 19366, 3501.7, (1020, 2734, 4142, 14050), (129, 424, 601, 1000), 1.09),
}  # fmt: skip
TWINS = [
    ("azure2023/AzureLLMInferenceTrace_code.csv", "azure2023/AzureLLMInferenceTrace_code.parquet"),
    ("azure2023/AzureLLMInferenceTrace_conv.csv", "azure2023/AzureLLMInferenceTrace_conv.parquet"),
    ("azure2023/AzureLLMInferenceTrace_conv.csv", "vidur/splitwise_conv.parquet"),
    ("mooncake/synthetic_trace.jsonl", "mooncake/synthetic_trace.parquet"),
    ("vidur/splitwise_code.csv", "vidur/splitwise_code.parquet"),
]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_figures_come_out(name):
    form, rows, span_s, prompt, output, cv = PUBLISHED[name]
    said = describe(open_trace(SHARED / name))
    assert (said["format"], said["rows"]) == (form, rows)
    assert said["span_s"] == pytest.approx(span_s, abs=0.06)
    assert said["gap_s"]["cv"] == pytest.approx(cv, abs=0.01)
    for column, published in (("prompt_tokens", prompt), ("output_tokens", output)):
        # Published percentiles interpolate between neighbours, ours are lengths that occur: 0.6 % covers the gap.
        found = [said[column][key] for key in ("p50", "p90", "p99", "max")]
        np.testing.assert_allclose(found, published, rtol=0.006, atol=1)


@pytest.mark.parametrize(("one", "other"), TWINS)
def test_copies_in_another_form_hold_the_same_requests(one, other):
    left, right = (open_trace(SHARED / name).head(10**6) for name in (one, other))
    np.testing.assert_array_equal(left.prompt_tokens, right.prompt_tokens)
    np.testing.assert_array_equal(left.output_tokens, right.output_tokens)
    np.testing.assert_allclose(left.arrival_s, right.arrival_s, rtol=0, atol=1e-6)
    assert left.prefixes == right.prefixes


def test_azure_clock_starts_at_its_first_row():
    info = open_trace(SHARED / "azure2023/AzureLLMInferenceTrace_conv.csv").info
    assert info.start_utc == "2023-11-16T18:15:46.680590+00:00"


def test_1612_conversation_requests_exceed_a_context_of_4096():
    """The figure the whole project is held to: requests that Llama-2 must reject."""
    whole = open_trace(SHARED / "azure2023/AzureLLMInferenceTrace_conv.csv").head(10**6)
    assert int((whole.prompt_tokens + whole.output_tokens > 4096).sum()) == 1612


@pytest.mark.parametrize(("name", "hit"), [("conversation_trace.parquet", 0.366), ("synthetic_trace.parquet", 0.640)])
def test_mooncake_prefixes_are_shared_as_published(name, hit):
    prefix = describe(open_trace(SHARED / "mooncake" / name))["prefix"]
    assert prefix["ideal_hit_frac"] == pytest.approx(hit, abs=0.0005)
    assert prefix["block_tokens"] == 512


def test_the_arxiv_lengths_need_a_rate():
    path = SHARED / "vidur/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.parquet"
    said = describe(open_trace(path, rate_per_s=2.0, cv=0.0))
    assert said["rows"] == 28_257
    assert said["rate_per_s"] == pytest.approx(2.0, rel=1e-4)
    assert said["gap_s"]["cv"] == pytest.approx(0.0, abs=1e-6)
    found = [said["output_tokens"][key] for key in ("p50", "p90", "p99", "max")]
    assert found == pytest.approx([167, 372, 3271, 4056], rel=0.006)


def test_drawn_arrivals_depend_on_the_seed_alone():
    path = SHARED / "vidur/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.parquet"
    one, same, other = (open_trace(path, rate_per_s=2.0, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(
        one.head(20_000).arrival_s, np.concatenate([b.arrival_s for b in same.batches(777)])[:20_000]
    )
    assert not np.array_equal(one.head(100).arrival_s, other.head(100).arrival_s)


@pytest.mark.parametrize("write", [write_parquet, write_csv])
def test_converted_traces_are_the_same_traces(tmp_path, write):
    source = open_trace(SHARED / "mooncake/conversation_trace.parquet")
    path = tmp_path / ("a.csv" if write is write_csv else "a.parquet")
    assert write(source, path) == 12_031
    left, right = source.head(10**6), open_trace(path).head(10**6)
    np.testing.assert_array_equal(left.arrival_s, right.arrival_s)
    np.testing.assert_array_equal(left.prompt_tokens, right.prompt_tokens)
    assert left.prefixes == right.prefixes


def test_the_shipped_presets_are_what_the_traces_give_today():
    """Fitting again gives the numbers in presets.toml."""
    from benchmarks.fit_trace_presets import fit_all

    for name, said in fit_all(SHARED).items():
        preset = load_preset(name)
        assert preset.gaps.shape == pytest.approx(said["gaps"]["shape"], rel=1e-4)
        assert preset.gaps.family == said["gaps"]["family"]
        assert preset.correlation == pytest.approx(said["correlation"], rel=1e-4)
        assert preset.prompt.tokens == pytest.approx(said["prompt"]["tokens"], rel=1e-4)
        assert preset.output.tokens == pytest.approx(said["output"]["tokens"], rel=1e-4)
        assert preset.daily.amplitude_frac == pytest.approx(said["daily"]["amplitude_frac"], rel=1e-4)
