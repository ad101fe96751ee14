"""`afterwatt fit`: a table of points in, a profile out, and one sentence where that cannot be."""

import json

import pytest

from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.stacks import load_pools, load_stack
from tests.cli.running import elsewhere, left_in

HEAD = "source,device,stack,model,params_b,precision,batch,prompt_tokens,output_tokens,metric,value\n"
ROWS = """\
mine,m40,llama.cpp-cuda,LLaMA-2-7B,6.74,q4_0,1,1,128,decode_tok_s,21
mine,m40,llama.cpp-cuda,LLaMA-2-7B,6.74,q4_0,1,512,,prefill_tok_s,180
mine,m99,llama.cpp-cuda,LLaMA-2-7B,6.74,q4_0,1,512,,prefill_tok_s,180
"""


@pytest.fixture
def table(tmp_path):
    (tmp_path / "own.csv").write_text(HEAD + ROWS)
    return tmp_path


def test_own_points_become_a_profile_that_simulate_takes(table):
    said = elsewhere(table, "afterwatt", "fit", "own.csv", "--out", "mine.toml", "--json")
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)
    assert found["profiles"] == ["mine.toml"]
    errors = found["errors"]
    assert errors["in_sample"]["points"] == 2
    assert errors["in_sample"]["median_error_frac"] < errors["device_left_out"]["median_error_frac"]
    assert [(row["row"], row["reason"]) for row in found["left_out"]] == [(4, "GPU not in the catalogue")]
    moves = {move["name"]: move for move in found["stacks"]["llama.cpp-cuda"]["parameters"]}
    move = moves["quantised_compute_efficiency"]
    assert move["low"] <= move["value"] <= move["high"]
    stack = load_stack(load_device("m40-24"), str(table / "mine.toml"))
    assert (stack.basis, stack.seen) == ("fitted", ()), "two points of a card are fitted to; three make it measured"
    assert float(stack.quantised_compute_efficiency) == pytest.approx(move["value"], rel=1e-3)
    run = ("simulate", "--hw", "m40-24", "--precision", "int4", "--stack", "mine.toml", "--limit", "3", "--json")
    again = elsewhere(table, "afterwatt", *run)
    assert again.code == 0, again.err


def test_the_table_says_what_moved_and_what_was_left_out(table):
    said = elsewhere(table, "afterwatt", "fit", "own.csv")
    assert said.code == 0
    for words in ("llama.cpp-cuda: 2 points", "quantised_compute_efficiency", "after 1 of its points", "m99"):
        assert words in said.out
    assert left_in(table) == ["own.csv"]


def test_a_folder_gets_a_profile_for_each_stack(table):
    (table / "own.csv").write_text(
        HEAD + ROWS + "mine,t4,transformers,OPT-6.7B,6.7,fp16,2,512,32,throughput_tok_s,25\n"
    )
    one = elsewhere(table, "afterwatt", "fit", "own.csv", "--out", "mine.toml")
    assert one.code == 2
    assert "is one profile, the points are of llama.cpp-cuda, transformers" in one.err
    both = elsewhere(table, "afterwatt", "fit", "own.csv", "--out", "mine", "--quiet")
    assert (both.code, both.out, both.err) == (0, "", "")
    assert left_in(table) == ["mine", "mine/llama.cpp-cuda.toml", "mine/transformers.toml", "own.csv"]
    for name in ("llama.cpp-cuda", "transformers"):
        assert load_pools(str(table / "mine" / f"{name}.toml"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nothing.csv",), "cannot read nothing.csv"),
        (("own.csv", "--prior", "shiped"), "unknown stack 'shiped'"),
        (("own.csv", "--stack", "vllm"), "of stack vllm to fit to; its points are of llama.cpp-cuda"),
        (("own.csv", "--out", "own.csv/x.toml"), "cannot write"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(table, words, sentence):
    said = elsewhere(table, "afterwatt", "fit", *words)
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert sentence in said.err
    assert left_in(table) == ["own.csv"]


def kernel_table(folder, device="m40-24", speed=1.0):
    """Matrix products of a card whose memory streams at half its datasheet's rate."""
    card = load_device("m40-24")
    rows = []
    for tokens in (1, 8, 64, 512):
        for side in (2048, 4096, 8192):
            work_s = 4.0 * side * side / (0.5 * card.mem_bandwidth_bytes_per_s)
            time_s = 5e-6 + work_s + 2.0 * tokens * side * side / (0.6 * card.flops_per_s["fp32"])
            rows.append(f"gemm,{device},fp32,{tokens},{side},{side},{time_s * speed}")
    (folder / "kernels.csv").write_text("op,device,dtype,m,n,k,seconds\n" + "\n".join(rows) + "\n")


def test_kernel_times_of_an_own_card_go_into_the_prior(table):
    kernel_table(table)
    words = ("fit", "own.csv", "--stack", "llama.cpp-cuda", "--kernels", "kernels.csv", "--json")
    said = elsewhere(table, "afterwatt", *words)
    assert said.code == 0, said.err
    found = json.loads(said.out)
    before = {move["name"]: move["prior"] for move in found["stacks"]["llama.cpp-cuda"]["parameters"]}
    plain = json.loads(elsewhere(table, "afterwatt", *words[:4], "--json").out)
    other = {move["name"]: move["prior"] for move in plain["stacks"]["llama.cpp-cuda"]["parameters"]}
    assert abs(before["mem_efficiency"] - 0.5) < abs(other["mem_efficiency"] - 0.5)
    assert before["dequant_int4_ops_per_weight"] == pytest.approx(other["dequant_int4_ops_per_weight"], rel=1e-3)
    assert left_in(table) == ["kernels.csv", "own.csv"]


def test_kernel_times_need_a_stack_and_a_known_card(table):
    kernel_table(table, device="m99")
    said = elsewhere(table, "afterwatt", "fit", "own.csv", "--kernels", "kernels.csv")
    assert (said.code, "name it with --stack" in said.err) == (2, True)
    said = elsewhere(table, "afterwatt", "fit", "own.csv", "--kernels", "kernels.csv", "--stack", "llama.cpp-cuda")
    assert (said.code, "'m99'" in said.err, said.err.count("\n")) == (2, True, 1)


def test_a_profile_that_stands_there_stays(table):
    (table / "mine.toml").write_text("old")
    said = elsewhere(table, "afterwatt", "fit", "own.csv", "--out", "mine.toml")
    assert said.code == 2
    assert "exists; choose another place or add --overwrite" in said.err
    assert (table / "mine.toml").read_text() == "old"
    assert elsewhere(table, "afterwatt", "fit", "own.csv", "--out", "mine.toml", "--overwrite", "-q").code == 0
    assert load_pools(str(table / "mine.toml"))
