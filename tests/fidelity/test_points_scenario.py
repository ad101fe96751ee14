"""From a row to a run: what is not clear is marked or refused, and nothing crashes."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.fidelity.points.amounts import read_amount
from afterwatt.fidelity.points.habits import SOURCES, STACKS, habit_of
from afterwatt.fidelity.points.hardware import read_hardware
from afterwatt.fidelity.points.refusals import Reason, Refusal, Refused
from afterwatt.fidelity.points.scenario import Scenario, scenario_of, scenarios_of
from afterwatt.fidelity.points.score import coverage_of
from afterwatt.fidelity.points.table import METRICS, OFFLOADS, Point, read_points
from afterwatt.hwprofiles.catalogue import device_names, load_device

SHARED = Path(__file__).parents[2] / "../shared/reference/points.csv"
POINT = Point(
    row=2,
    source="mine",
    url_or_id="",
    hardware="RTX 3090 24GB",
    num_gpus=1,
    model="Llama 3.1 8B Instruct",
    params_b=8.0,
    weight_precision="Q4_K_M",
    batch="1",
    prompt_tokens="",
    output_tokens="128",
    metric="decode_tok_s",
    value=100.0,
)


def run_of(**changes) -> Scenario:
    found = scenario_of(replace(POINT, **changes))
    assert isinstance(found, Scenario), found
    return found


def refusal_of(**changes) -> Refusal:
    found = scenario_of(replace(POINT, **changes))
    assert isinstance(found, Refusal), found
    return found


# -- cards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", device_names())
def test_every_card_of_the_catalogue_is_known_by_its_own_name(key: str):
    name = load_device(key).name.partition("(")[0]
    assert read_hardware(name).device.key == key


@pytest.mark.parametrize(
    ("text", "key", "count"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80", None),
        ("A100 PCIe 80GB", "a100-80-pcie", None),
        ("A100 40GB SXM", "a100-40", None),
        ("Tesla T4", "t4", None),
        ("T4 16GB (208GB DRAM, 1.5TB SSD, GCP)", "t4", None),
        ("2x RTX 3090", "rtx3090", 2),
        ("2× 3090", "rtx3090", 2),
        ("RTX 3090 x4", "rtx3090", 4),
        ("Dual RTX 3090", "rtx3090", 2),
        ("B200 192GB", "b200", None),
        ("3x Tesla P40", "p40", 3),
        ("GeForce RTX2080Ti", "rtx2080ti", None),
        ("Tesla V100-SXM2-32GB", "v100-sxm-32", None),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000-ada", None),
        ("8x H100 SXM5 80GB", "h100-sxm", 8),
    ],
)
def test_cards_as_people_write_them(text: str, key: str, count: int | None):
    found = read_hardware(text)
    assert (found.device.key, found.count, found.assumed) == (key, count, ())


@pytest.mark.parametrize(
    "text", ["RTX 4090 Laptop", "RTX 3090 Ti Super", "A100 48GB", "MI355X", "Apple M1 Max CPU", "GH200", "x", "2x"]
)
def test_another_card_is_not_taken_for_a_known_one(text: str):
    with pytest.raises(Refused) as caught:
        read_hardware(text)
    assert caught.value.reason is Reason.UNKNOWN_GPU


def test_a_choice_among_cards_is_marked():
    assert any("taken as" in text for text in read_hardware("A100 (size not stated)").assumed)
    assert read_hardware("A100 80GB", form="sxm").assumed == ()
    assert read_hardware("V100 32GB", "4 GPUs over PCIe").device.key == "v100-pcie-32"


def test_a_power_limit_is_kept_and_marked():
    found = read_hardware("A100 80GB SXM (power limited 330 W)")
    assert found.power_limit_w == 330.0
    assert any("330 W" in text for text in found.assumed)


@pytest.mark.parametrize("text", ["V100/A100 (sharded)", "RTX 3090 + Tesla P40", "Colab T4 / mid-range GPUs"])
def test_several_kinds_of_cards_are_no_set_up(text: str):
    with pytest.raises(Refused) as caught:
        read_hardware(text)
    assert caught.value.reason is Reason.NOT_ONE_SETUP


# -- amounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "exact"),
    [("512", 512, True), ("2,048", 2048, True), ("2k", 2000, True), ("~50", 50, False), ("<=512", 512, False)],
)
def test_numbers_as_people_write_them(text: str, value: float, exact: bool):
    amount = read_amount(text)
    assert amount is not None
    assert (amount.value, amount.exact) == (value, exact)


def test_a_range_stands_for_its_geometric_middle():
    amount = read_amount("~350-930")
    assert amount is not None
    assert amount.value**2 == pytest.approx(350 * 930)
    assert not amount.exact


@pytest.mark.parametrize("text", ["", "ShareGPT", "many", "-5", "0", "1e999", "9" * 400])
def test_what_is_no_amount(text: str):
    assert read_amount(text) is None


# -- software and habits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "stack"),
    [
        ({"source": "reddit", "weight_precision": "Q5_K_M"}, "llama.cpp-cuda"),
        ({"source": "FlexGen: HF Accelerate", "weight_precision": "fp16"}, "transformers"),
        ({"source": "DeepSpeed ZeRO-Inference README: FlexGen", "weight_precision": "fp16"}, "flexgen"),
        ({"source": "a blog", "notes": "vLLM 0.6", "weight_precision": "awq"}, "vllm"),
        ({"source": "a blog", "notes": "TensorRT-LLM", "weight_precision": "fp8"}, "tensorrt-llm"),
        ({"source": "a blog", "weight_precision": "exl2 4.0bpw"}, "exllama"),
        ({"source": "T4 AWQ load test", "url_or_id": "public llama-bench log"}, "vllm"),
    ],
)
def test_software_is_told_by_source_notes_or_format(changes, stack: str):
    assert habit_of(replace(POINT, **changes)).stack == stack


def test_unknown_software_is_marked():
    found = run_of(source="reddit", weight_precision="fp16")
    assert any(text.startswith("software: not stated") for text in found.assumed)


def test_habits_give_their_reasons():
    assert all(len(habit.why) > 20 for habit in STACKS.values())
    assert all(habit.widen >= 1.0 for habit in STACKS.values())
    stated = [source for source in SOURCES if {"prompt_tokens", "output_tokens"} & set(source.changes)]
    assert all("why" in source.changes for source in stated if source.stack != "tensorrt-llm")


def test_what_is_stated_is_not_assumed():
    told = run_of(prompt_tokens="256", output_tokens="64", weight_precision="Q4_K_M")
    assert (told.load.prompts, told.load.outputs) == ((256,), (64,))
    assert told.assumed == ()
    assert told.widen == 1.0
    guessed = run_of(output_tokens="")
    assert guessed.assumed
    assert guessed.widen > 1.0


def test_a_small_batch_of_a_prompt_is_its_piece():
    found = run_of(metric="throughput_tok_s", batch="16", prompt_tokens="512", notes="pp512 with microbatch 16")
    assert (found.metric, found.policies.token_budget, found.load.prompts) == ("prefill_tok_s", 16, (512,))
    assert found.phase == "decode"


def test_a_depth_lies_in_the_cache():
    found = run_of(metric="prefill_tok_s", batch="64", prompt_tokens="512", notes="at KV depth 32768, microbatch 64")
    assert found.load.cached_tokens == 32768
    assert found.load.warm_ups == 1
    assert found.model.max_context >= 32768 + 513


@pytest.mark.parametrize(
    ("changes", "prompt", "output"),
    [
        ({"prompt_tokens": "512", "output_tokens": "", "notes": "at KV depth 32768 (decode proxy)"}, 1, 512),
        ({"prompt_tokens": "", "output_tokens": "128", "notes": "tg128 @ d32768"}, 1, 128),
        ({"prompt_tokens": "256", "output_tokens": "128", "notes": "at KV depth 32768"}, 256, 128),
    ],
)
def test_a_decoding_speed_at_a_depth_is_that_of_decoding(changes, prompt: int, output: int):
    found = run_of(metric="decode_tok_s", **changes)
    assert (found.metric, found.phase, found.load.cached_tokens) == ("decode_tok_s", "decode", 32768)
    assert (found.load.prompts, found.load.outputs) == ((prompt,), (output,))


@pytest.mark.parametrize("metric", ["prefill_tok_s", "throughput_tok_s", "decode_tok_s"])
def test_a_prompt_in_pieces_of_one_token_is_decoding(metric: str):
    found = run_of(metric=metric, batch="1", prompt_tokens="512", output_tokens="", notes="depth 4096, microbatch 1")
    assert (found.metric, found.load.outputs, found.load.cached_tokens) == ("decode_tok_s", (512,), 4096)


def test_layers_or_tensors_are_split_as_the_software_does():
    assert [run_of(num_gpus=2).deployment.tp, run_of(num_gpus=2).deployment.pp] == [1, 2]
    served = run_of(num_gpus=2, weight_precision="fp16", notes="vLLM")
    assert [served.deployment.tp, served.deployment.pp] == [2, 1]
    rows = run_of(num_gpus=2, notes="split-mode row")
    assert [rows.deployment.tp, rows.deployment.pp] == [2, 1]


@pytest.mark.parametrize("words", ["split-mode row", "row split", "-sm row", "split mode: row"])
def test_rows_can_be_shared_by_any_number_of_gpus(words: str):
    """Heads only by a divisor of theirs: 32 of them do not go into 3 parts."""
    assert run_of(num_gpus=3, notes=words).deployment.tp == 3
    assert [(s.deployment.tp, s.deployment.pp) for s in [run_of(num_gpus=3, notes="tensor parallel")]] == [(1, 3)]


def test_a_full_engine_has_more_requests_than_seats():
    found = run_of(source="ML.ENERGY leaderboard", hardware="H100 80GB", weight_precision="bf16", batch="64",
                   prompt_tokens="lm-arena-chat", output_tokens="~390", metric="throughput_tok_s")  # fmt: skip
    assert found.load.seats == 64 == found.policies.max_seqs
    assert len(found.load.prompts) >= 3 * 64
    assert found.load.arrivals_s is None


def test_an_offered_rate_is_an_open_loop():
    found = run_of(batch="20 req/s offered", metric="ttft_s", prompt_tokens="~50", output_tokens="~150", notes="vLLM")
    times = found.load.arrivals_s
    assert times is not None
    assert list(times) == sorted(times)
    assert len(times) / times[-1] == pytest.approx(20.0, rel=0.05)


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"offload": "dram"}, Reason.OFFLOAD),
        ({"model": "LLaMA-2-70B int4 + draft LLaMA-2-7B int4"}, Reason.SPECULATION),
        ({"notes": "speculative sampling, vs 25 without"}, Reason.SPECULATION),
        ({"hardware": "RTX 6090"}, Reason.UNKNOWN_GPU),
        ({"model": "avg over LLMs incl. OPT-175B"}, Reason.NOT_ONE_SETUP),
        ({"notes": 'low end of stated "3-4"'}, Reason.NOT_ONE_SETUP),
        ({"weight_precision": "mixed 2-4 bit"}, Reason.NOT_ONE_SETUP),
        ({"weight_precision": "banana"}, Reason.UNKNOWN_PRECISION),
        ({"weight_precision": ""}, Reason.UNKNOWN_PRECISION),
        ({"model": "a large one", "params_b": None}, Reason.UNKNOWN_MODEL),
        ({"metric": "throughput_tok_s", "batch": ""}, Reason.UNCLEAR_LOAD),
        ({"batch": "concurrent load, not in excerpt", "metric": "throughput_tok_s"}, Reason.UNCLEAR_LOAD),
        ({"model": "LLaMA-3.1-405B", "params_b": 405.0, "weight_precision": "fp16"}, Reason.NO_FIT),
        ({"num_gpus": 97}, Reason.NO_SPLIT),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_reason(changes, reason: Reason):
    found = refusal_of(**changes)
    assert found.reason is reason
    assert found.why


def test_no_draft_is_no_speculation():
    run_of(notes='"~9" no draft, split-mode row', hardware="3x Tesla P40", num_gpus=3)


def test_coverage_leaves_out_what_nobody_can_model_yet():
    rows = [replace(POINT, row=row) for row in range(2, 12)]
    rows += [replace(POINT, offload="ssd"), replace(POINT, hardware="RTX 6090"), replace(POINT, batch="some users")]
    rows.append(replace(POINT, batch="some", metric="throughput_tok_s"))
    cover = coverage_of(*scenarios_of(rows))
    assert (cover.rows, cover.counted) == (14, 12)
    assert cover.run == cover.counted - len([row for row in rows if "some" in row.batch])


words = st.sampled_from(
    [
        "RTX",
        "3090",
        "4090",
        "A100",
        "80GB",
        "SXM",
        "PCIe",
        "2x",
        "Tesla",
        "V100",
        "T4",
        "H100",
        "P40",
        "(",
        ")",
        "/",
        "+",
        "-",
        ",",
        "x",
        "draft",
        "GPU",
        "é",
        "8",
        "16GB",
        "70B",
        "Llama",
        "Qwen",
        "MoE",
        "A3B",
    ]
)
phrases = st.lists(words, max_size=5).map(" ".join)
numbers = st.sampled_from(
    ["", "1", "8", "64", "512", "~50", "64-128", "1e9", "20 req/s", "ShareGPT", "8 users", "9" * 9]
)
points = st.builds(
    Point,
    row=st.just(2),
    source=phrases
    | st.sampled_from(["reddit", "llama.cpp PR 1", "ML.ENERGY", "FlexGen: Petals (per GPU)", "vLLM issue 1"]),
    url_or_id=st.text(max_size=10),
    hardware=phrases | st.sampled_from(["RTX 3090", "2x RTX 4090", "H100 80GB"]),
    num_gpus=st.none() | st.integers(1, 16) | st.just(4096),
    model=phrases | st.sampled_from(["Llama-3.1-8B", "Mixtral-8x7B", "7B", "OPT-30B"]),
    params_b=st.none() | st.floats(1e-3, 1e5),
    weight_precision=st.sampled_from(["", "fp16", "Q4_K_M", "Q5_K_M", "awq-int4", "fp8", "int8", "exl2 4.25bpw", "??"]),
    batch=numbers,
    prompt_tokens=numbers,
    output_tokens=numbers,
    metric=st.sampled_from(sorted(METRICS)),
    value=st.floats(0.01, 1e4),
    offload=st.sampled_from(OFFLOADS[:1] * 9 + OFFLOADS[1:]),
    notes=phrases | st.sampled_from(["", "microbatch 4", "at KV depth 4096", "row split", "Vulkan", "per GPU"]),
)


@settings(deadline=None, max_examples=300)
@given(points)
def test_any_row_is_a_run_or_a_refusal(point: Point):
    found = scenario_of(point)
    if isinstance(found, Refusal):
        assert found.why
    else:
        load = found.load
        assert len(load.prompts) == len(load.outputs) >= 1
        assert min(load.prompts) >= 1 <= min(load.outputs)
        assert load.longest_tokens <= found.model.max_context
        assert found.widen >= 1.0
        assert found.deployment.tp * found.deployment.pp == found.deployment.count
        assert hash(found.same_run) == hash(scenario_of(point).same_run)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_hardware_or_refused(text: str, hints: str):
    try:
        count = read_hardware(text, hints).count
    except Refused:
        return
    assert count is None or count >= 0


@pytest.mark.skipif(not SHARED.is_file(), reason="the table of points does not lie in ../shared/reference")
def test_the_reference_table_is_covered():
    """What is asked: nine in ten of the rows with a known card, resident weights and no speculation."""
    scenarios, refusals = scenarios_of(read_points(SHARED))
    assert coverage_of(scenarios, refusals).frac >= 0.9
    assert len(scenarios) + len(refusals) == len(read_points(SHARED).points)
