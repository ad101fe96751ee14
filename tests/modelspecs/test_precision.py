"""Storage formats: bits per weight as their makers publish them, and the names that people write."""

import pytest

from afterwatt.modelspecs import COMMON_PRECISIONS, PRECISIONS, ModelError, load_model, load_precision
from afterwatt.modelspecs.gguf import BLOCKS, FORMATS, block_bits, row_bits
from afterwatt.modelspecs.precision import FAMILIES

# ggml-org/llama.cpp 311c2c9, tools/quantize/README.md: bits per weight of whole files of Llama-3.1-8B.
LLAMA_CPP_FILES = {
    "iq1_s": 2.0042, "iq1_m": 2.1460, "iq2_xxs": 2.3824, "iq2_xs": 2.5882, "iq2_s": 2.7403, "iq2_m": 2.9294,
    "iq3_xxs": 3.2548, "iq3_xs": 3.4977, "iq3_s": 3.6606, "iq3_m": 3.7628, "iq4_xs": 4.4597, "iq4_nl": 4.6818,
    "q2_k_s": 2.9697, "q2_k": 3.1593, "q3_k_s": 3.6429, "q3_k_l": 4.2979, "q4_k_s": 4.6672, "q4_k_m": 4.8944,
    "q5_k_s": 5.5704, "q5_k_m": 5.7036, "q6_k": 6.5633, "q8_0": 8.5008,
}  # fmt: skip

SPELLINGS = {
    "fp16": ["F16", "float16", "half"],
    "bf16": ["BF16", "bfloat16"],
    "fp8": ["FP8", "fp8_e4m3", "W8A8-FP8"],
    "int8": ["LLM.int8()", "8-bit", "bnb-8bit"],
    "w8a8": ["SmoothQuant W8A8", "w8a8"],
    "gptq": ["GPTQ", "GPTQ-Int4", "w4a16", "GPTQ 4bit"],
    "awq": ["AWQ", "awq-int4", "AWQ 4-bit"],
    "int4-g32": ["int4-g32", "INT4_G32"],
    "nf4": ["NF4", "bnb-4bit"],
    "q4f16": ["q4f16_1"],
    "q4_k_m": ["Q4_K_M", "q4km", "Q4_K_M (GGUF)", "GGUF Q4_K_M", "Q4"],
    "q4_k_l": ["Q4_K_L", "UD-Q4_K_XL"],
    "iq4_xs": ["IQ4_XS"],
    "q8_0": ["Q8_0", "Q8"],
    "mxfp4": ["MXFP4", "MXFP4_MOE"],
    "qtip-2bit": ["QTIP 2bit"],
    "quip-2bit": ["QuIP# 2bit"],
    "aqlm-2bit": ["AQLM 2bit"],
}


@pytest.mark.parametrize(("name", "published"), LLAMA_CPP_FILES.items())
def test_a_gguf_file_weighs_what_llama_cpp_publishes(name, published):
    spec = load_model("llama-3.1-8b")
    assert 8 * spec.stored_bytes(name) / spec.params == pytest.approx(published, rel=1e-3)


@pytest.mark.parametrize(("size", "gigabytes"), [("8b", 4.9), ("70b", 43.1), ("405b", 249.1)])
def test_the_mixture_of_one_shape_holds_for_others_within_two_percent(size, gigabytes):
    # Same file, "Memory/Disk Requirements": Q4_K_M files of Llama 3.1, in GB (of 10^9 bytes, or 2^30 for the 70B).
    stored = load_model(f"llama-3.1-{size}").stored_bytes("q4_k_m")
    assert stored == pytest.approx(gigabytes * 1e9, rel=0.025)


@pytest.mark.parametrize(("name", "gibibytes"), [("llama-2-7b", 3.80), ("mistral-7b", 4.07)])
def test_q4_k_m_files_weigh_what_llama_bench_prints(name, gibibytes):
    # "llama 7B Q4_K - Medium | 3.80 GiB | 6.74 B" and "4.07 GiB | 7.24 B" in public llama-bench tables.
    assert load_model(name).stored_bytes("q4_k_m") == pytest.approx(gibibytes * 2**30, rel=0.005)


def test_a_mixture_lies_between_its_blocks():
    for name, form in FORMATS.items():
        low, high = min(map(block_bits, BLOCKS)), max(map(block_bits, BLOCKS))
        assert low <= form.matrices <= high, name
        assert form.matrices <= form.head or name in {"iq2_m", "mxfp4"} or form.head >= block_bits("Q5_K"), name


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_format_is_complete(name):
    form = PRECISIONS[name]
    assert form.name == name
    assert len(form.source) > 15
    assert form.family in FAMILIES
    assert 1.5 <= form.bits_per_weight <= 32
    assert form.quantised == (form.family not in {"fp32", "fp16"})
    assert form.arithmetic[-1] == "fp32", "every device computes in fp32, so there is always something to compute in"
    if form.family.startswith("int"):
        assert form.bits_per_weight == pytest.approx(int(form.family[3:]), abs=1.25)


def test_families_hold_the_bits_that_they_say_in_order():
    order = {"int2": 2, "int3": 3, "int4": 4, "fp4": 4, "int5": 5, "int6": 6, "int8": 8, "fp8": 8, "fp16": 16}
    for one in PRECISIONS.values():
        for other in PRECISIONS.values():
            if order.get(one.family, 32) + 1 < order.get(other.family, 32):
                assert one.bits_per_weight < other.bits_per_weight


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in SPELLINGS.items() for text in texts])
def test_names_are_taken_as_people_write_them(name, text):
    assert load_precision(text) is PRECISIONS[name]


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_name_loads_itself_in_any_case(name):
    assert load_precision(name.upper()) is load_precision(f" {name} ") is PRECISIONS[name]


@pytest.mark.parametrize(
    ("text", "bits", "family"), [("EXL2 4.25bpw", 4.25, "int4"), ("exl2-5.0", 5, "int5"), ("3bpw", 3, "int3")]
)
def test_exllama_stores_the_bits_that_it_is_asked_for(text, bits, family):
    form = load_precision(text)
    assert (form.bits_per_weight, form.family, form.quantised) == (bits, family, True)
    assert 8 * form.bytes_per_head == 6


@pytest.mark.parametrize("text", ["mixed 2-4 bit", "fp16/int4", "", "Q9_9", "exl2 40bpw"])
def test_what_names_no_one_format_is_refused(text):
    with pytest.raises(ModelError, match=r"unknown precision|out of range"):
        load_precision(text)


def test_lists_show_the_common_formats_in_which_only_matrices_shrink():
    assert list(COMMON_PRECISIONS) == ["fp32", "fp16", "bf16", "int8", "fp8", "int4"]
    for form in COMMON_PRECISIONS.values():
        assert form.bytes_per_head == form.bytes_per_other
        assert form.bytes_per_attention_weight == form.bytes_per_weight
        assert form.quantised == (form.bits_per_weight < form.bits_per_other)


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        # Published files of Qwen2.5-72B-Instruct: 47.42, 54.45, 64.35 GB; rows of its down matrices are 115.5 x 256.
        ("qwen2.5-72b", {"q4_k_m": 47.36, "q5_k_m": 54.43, "q6_k": 64.33}),
        # Rows of 2,880 weights, and experts that stay in MXFP4: published as 12.1 and 63.4 GB.
        ("gpt-oss-20b", {"q8_0": 12.07, "mxfp4": 12.07, "q2_k": 11.42}),
        ("gpt-oss-120b", {"q8_0": 63.22}),
        # Rows of 896 weights: published as 398 MB.
        ("qwen2.5-0.5b", {"q4_k_m": 0.3916}),
    ],
)
def test_rows_that_are_no_multiple_of_256_fall_back_to_smaller_blocks(model, sizes):
    spec = load_model(model)
    for name, gigabytes in sizes.items():
        assert spec.stored_bytes(name) / 1e9 == pytest.approx(gigabytes, rel=5e-4), name


@pytest.mark.parametrize(
    ("wanted", "row", "bits"),
    [("Q4_K", 4096, 4.5), ("Q4_K", 2880, 5.5), ("Q5_K", 2880, 6.0), ("Q6_K", 2880, 8.5), ("Q2_K", 2880, 4.5),
     ("IQ3_S", 2880, 4.5), ("TQ1_0", 2880, 4.5), ("Q8_0", 2880, 8.5), ("Q8_0", 100, 16.0), ("Q4_K", 100, 16.0)],
)  # fmt: skip
def test_what_a_block_falls_back_to(wanted, row, bits):
    assert row_bits(wanted, row) == bits


def test_a_model_of_usual_rows_keeps_the_usual_mixture():
    for name in ("llama-2-7b", "llama-3.1-70b", "mixtral-8x7b"):
        assert load_model(name).form("q4_k_m") is load_precision("q4_k_m")
    assert load_model("qwen2.5-72b").form("int4") is load_precision("int4")
    fitted = load_model("qwen2.5-72b").form("q4_k_m")
    assert load_model("qwen2.5-72b").form(fitted) is fitted
