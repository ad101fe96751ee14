"""Hugging Face configs: parameters must be those of the tensors that transformers would create, listed one by one."""

import json
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.modelspecs import ModelError, load_model, model_names

# ---- the second way of counting: every tensor of the state dict, as transformers' modules create them ------


def linear(name, out_features, in_features, bias):
    return {f"{name}.weight": (out_features, in_features)} | ({f"{name}.bias": (out_features,)} if bias else {})


def layer_norm(name, width, affine=True):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)} if affine else {}


def llama_like_tensors(c):
    """LlamaForCausalLM, MistralForCausalLM, MixtralForCausalLM and Qwen2ForCausalLM."""
    family, hidden, heads = c["model_type"], c["hidden_size"], c["num_attention_heads"]
    head_dim = c.get("head_dim") or hidden // heads
    kv_heads = c.get("num_key_value_heads") or heads
    attention_bias = c.get("attention_bias", False) if family == "llama" else False
    qkv_bias = True if family == "qwen2" else attention_bias
    ffn_bias = c.get("mlp_bias", False)
    ffn = c["intermediate_size"]
    t = {"model.embed_tokens.weight": (c["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        t[at + "input_layernorm.weight"] = t[at + "post_attention_layernorm.weight"] = (hidden,)
        t |= linear(at + "self_attn.q_proj", heads * head_dim, hidden, qkv_bias)
        t |= linear(at + "self_attn.k_proj", kv_heads * head_dim, hidden, qkv_bias)
        t |= linear(at + "self_attn.v_proj", kv_heads * head_dim, hidden, qkv_bias)
        t |= linear(at + "self_attn.o_proj", hidden, heads * head_dim, attention_bias)
        if family == "mixtral":
            t |= linear(at + "block_sparse_moe.gate", c["num_local_experts"], hidden, False)
            for e in range(c["num_local_experts"]):
                for w, shape in (("w1", (ffn, hidden)), ("w2", (hidden, ffn)), ("w3", (ffn, hidden))):
                    t[at + f"block_sparse_moe.experts.{e}.{w}.weight"] = shape
        else:
            t |= linear(at + "mlp.gate_proj", ffn, hidden, ffn_bias)
            t |= linear(at + "mlp.up_proj", ffn, hidden, ffn_bias)
            t |= linear(at + "mlp.down_proj", hidden, ffn, ffn_bias)
    if not c.get("tie_word_embeddings", False):
        t["lm_head.weight"] = (c["vocab_size"], hidden)
    return t


def opt_tensors(c):
    hidden, bias = c["hidden_size"], c.get("enable_bias", True)
    affine, width = c.get("layer_norm_elementwise_affine", True), c.get("word_embed_proj_dim") or c["hidden_size"]
    t = {
        "decoder.embed_tokens.weight": (c["vocab_size"], width),
        "decoder.embed_positions.weight": (c["max_position_embeddings"] + 2, hidden),
    }
    for i in range(c["num_hidden_layers"]):
        at = f"decoder.layers.{i}."
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            t |= linear(at + f"self_attn.{projection}", hidden, hidden, bias)
        t |= linear(at + "fc1", c["ffn_dim"], hidden, bias) | linear(at + "fc2", hidden, c["ffn_dim"], bias)
        t |= layer_norm(at + "self_attn_layer_norm", hidden, affine)
        t |= layer_norm(at + "final_layer_norm", hidden, affine)
    if width != hidden:
        t |= linear("decoder.project_in", hidden, width, False) | linear("decoder.project_out", width, hidden, False)
    if c.get("do_layer_norm_before", True) and not c.get("_remove_final_layer_norm", False):
        t |= layer_norm("decoder.final_layer_norm", hidden, affine)
    if not c.get("tie_word_embeddings", True):
        t["lm_head.weight"] = (c["vocab_size"], width)
    return t


def falcon_tensors(c):
    hidden, heads, bias = c["hidden_size"], c["num_attention_heads"], c.get("bias", False)
    head_dim, new = hidden // heads, c.get("new_decoder_architecture", False)
    if new:
        qkv_rows = (2 * (c.get("num_kv_heads") or heads) + heads) * head_dim
    else:
        qkv_rows = hidden + 2 * head_dim if c.get("multi_query", True) else 3 * hidden
    ffn = c.get("ffn_hidden_size") or 4 * hidden
    norms = ["input_layernorm"]
    if not c.get("parallel_attn", True):
        norms = ["input_layernorm", "post_attention_layernorm"]
    elif (c.get("num_ln_in_parallel_attn") or (2 if new else 1)) == 2:
        norms = ["ln_attn", "ln_mlp"]
    t = {"transformer.word_embeddings.weight": (c["vocab_size"], hidden)} | layer_norm("transformer.ln_f", hidden)
    for i in range(c["num_hidden_layers"]):
        at = f"transformer.h.{i}."
        t |= linear(at + "self_attention.query_key_value", qkv_rows, hidden, bias)
        t |= linear(at + "self_attention.dense", hidden, hidden, bias)
        t |= linear(at + "mlp.dense_h_to_4h", ffn, hidden, bias) | linear(at + "mlp.dense_4h_to_h", hidden, ffn, bias)
        for norm in norms:
            t |= layer_norm(at + norm, hidden)
    if not c.get("tie_word_embeddings", True):
        t["lm_head.weight"] = (c["vocab_size"], hidden)
    return t


def bloom_tensors(c):
    hidden = c.get("n_embed") or c["hidden_size"]
    t = {"transformer.word_embeddings.weight": (c["vocab_size"], hidden)}
    t |= layer_norm("transformer.word_embeddings_layernorm", hidden) | layer_norm("transformer.ln_f", hidden)
    for i in range(c["n_layer"]):
        at = f"transformer.h.{i}."
        t |= linear(at + "self_attention.query_key_value", 3 * hidden, hidden, True)
        t |= linear(at + "self_attention.dense", hidden, hidden, True)
        t |= linear(at + "mlp.dense_h_to_4h", 4 * hidden, hidden, True)
        t |= linear(at + "mlp.dense_4h_to_h", hidden, 4 * hidden, True)
        t |= layer_norm(at + "input_layernorm", hidden) | layer_norm(at + "post_attention_layernorm", hidden)
    return t


def rms_tensors(c):
    """Qwen3ForCausalLM, Qwen3MoeForCausalLM, GptOssForCausalLM, Gemma*ForCausalLM and Phi3ForCausalLM."""
    family, hidden, heads = c["model_type"], c["hidden_size"], c["num_attention_heads"]
    default = {"qwen3": 128, "qwen3_moe": 128, "gemma": 256, "gemma2": 256, "gemma3_text": 256}
    head_dim = c.get("head_dim") or default.get(family) or hidden // heads
    kv_heads = c.get("num_key_value_heads") or heads
    bias = c.get("attention_bias", family == "gpt_oss")
    t = {"model.embed_tokens.weight": (c["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        norms = ["input_layernorm", "post_attention_layernorm"]
        if family in {"gemma2", "gemma3_text"}:
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        t |= {at + norm: (hidden,) for norm in norms}
        if family in {"qwen3", "qwen3_moe", "gemma3_text"}:
            t |= {at + "self_attn.q_norm": (head_dim,), at + "self_attn.k_norm": (head_dim,)}
        if family == "phi3":
            t[at + "self_attn.qkv_proj"] = ((heads + 2 * kv_heads) * head_dim, hidden)
            t[at + "mlp.gate_up_proj"] = (2 * c["intermediate_size"], hidden)
        else:
            for name, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
                t |= linear(f"{at}self_attn.{name}_proj", rows * head_dim, hidden, bias)
        t |= linear(at + "self_attn.o_proj", hidden, heads * head_dim, bias)
        t |= rms_ffn_tensors(c, at, family, hidden, heads)
    if not c.get("tie_word_embeddings", family.startswith("gemma")):
        t["lm_head.weight"] = (c["vocab_size"], hidden)
    return t


def rms_ffn_tensors(c, at, family, hidden, heads):
    ffn, t = c["intermediate_size"], {}
    if family == "gpt_oss":
        experts = c["num_local_experts"]
        t[at + "self_attn.sinks"] = (heads,)
        t |= linear(at + "mlp.router", experts, hidden, True)
        t[at + "mlp.experts.gate_up_proj"], t[at + "mlp.experts.gate_up_bias"] = (
            (experts, hidden, 2 * ffn),
            (experts, 2 * ffn),
        )
        t[at + "mlp.experts.down_proj"], t[at + "mlp.experts.down_bias"] = (experts, ffn, hidden), (experts, hidden)
    elif family == "qwen3_moe":
        t |= linear(at + "mlp.gate", c["num_experts"], hidden, False)
        for e in range(c["num_experts"]):
            for name in ("gate_proj", "up_proj", "down_proj"):
                t |= linear(f"{at}mlp.experts.{e}.{name}", c["moe_intermediate_size"], hidden, False)
    else:
        gates = () if family == "phi3" else ("gate_proj", "up_proj")
        for name in gates:
            t |= linear(f"{at}mlp.{name}", ffn, hidden, False)
        t |= linear(at + "mlp.down_proj", hidden, ffn, False)
    return t


def phi_tensors(c):
    """PhiForCausalLM and GPTJForCausalLM: attention and FFN side by side behind one norm, a biased head."""
    gptj = c["model_type"] == "gptj"
    hidden = c["n_embd"] if gptj else c["hidden_size"]
    ffn = (c.get("n_inner") or 4 * hidden) if gptj else c["intermediate_size"]
    kv = (
        hidden
        if gptj
        else hidden // c["num_attention_heads"] * (c.get("num_key_value_heads") or c["num_attention_heads"])
    )
    t = {"embed.weight": (c["vocab_size"], hidden)} | layer_norm("final", hidden)
    for i in range(c["n_layer"] if gptj else c["num_hidden_layers"]):
        at = f"h.{i}."
        t |= layer_norm(at + "ln_1", hidden)
        for name, rows in (("q_proj", hidden), ("k_proj", kv), ("v_proj", kv), ("out_proj", hidden)):
            t |= linear(f"{at}attn.{name}", rows, hidden, not gptj)
        t |= linear(at + "fc_in", ffn, hidden, True) | linear(at + "fc_out", hidden, ffn, True)
    tied = c.get("tie_word_embeddings", False)
    return t | ({"lm_head.bias": (c["vocab_size"],)} if tied else linear("lm_head", c["vocab_size"], hidden, True))


RMS_FAMILIES = ("qwen3", "qwen3_moe", "gpt_oss", "gemma", "gemma2", "gemma3_text", "phi3")
TENSORS = dict.fromkeys(("llama", "mistral", "mixtral", "qwen2", "ministral3"), llama_like_tensors) | {
    "opt": opt_tensors,
    "falcon": falcon_tensors,
    "bloom": bloom_tensors,
    **dict.fromkeys(RMS_FAMILIES, rms_tensors),
    "phi": phi_tensors,
    "gptj": phi_tensors,
}

# ---- random configs, with fields left out or null wherever transformers allows it ------


def maybe(strategy):
    """A field that may be absent, null or a value."""
    return st.one_of(st.just("absent"), st.none(), strategy)


@st.composite
def configs(draw):
    family = draw(st.sampled_from(sorted(TENSORS)))
    kv_heads, group, head_dim = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 16))
    heads = kv_heads * group
    size, flag = st.integers(1, 300), st.booleans()
    shape = {"hidden_size": heads * head_dim, "vocab_size": draw(size), "num_hidden_layers": draw(st.integers(1, 4))}
    positions = {"max_position_embeddings": draw(size)}
    tie = draw(st.sampled_from([{}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}]))
    if family == "bloom":
        c = {
            "hidden_size": heads * head_dim,
            "vocab_size": draw(size),
            "n_head": heads,
            "n_layer": draw(st.integers(1, 4)),
        }
    elif family == "gptj":
        c = tie | {
            "n_embd": heads * head_dim,
            "vocab_size": draw(size),
            "n_head": heads,
            "n_layer": draw(st.integers(1, 4)),
        }
        c |= {"n_inner": draw(maybe(size))}
    elif family == "phi":
        c = shape | positions | tie | {"num_attention_heads": heads, "intermediate_size": draw(size)}
        c |= {"num_key_value_heads": draw(maybe(st.just(kv_heads)))}
    elif family == "opt":
        c = shape | positions | tie | {"num_attention_heads": heads, "ffn_dim": draw(size)}
        c |= {"word_embed_proj_dim": draw(maybe(size))}
        for name in (
            "enable_bias",
            "do_layer_norm_before",
            "_remove_final_layer_norm",
            "layer_norm_elementwise_affine",
        ):
            c[name] = draw(st.one_of(st.just("absent"), flag))
    elif family == "falcon":
        c = shape | tie | {"num_attention_heads": heads, "ffn_hidden_size": draw(maybe(size))}
        new = c["new_decoder_architecture"] = draw(flag)
        c |= {"num_kv_heads": draw(maybe(st.just(kv_heads)))} if new else {"multi_query": draw(flag)}
        c |= {"parallel_attn": draw(flag), "bias": draw(flag)}
        c["num_ln_in_parallel_attn"] = draw(maybe(st.integers(1, 2))) if new else "absent"
    else:
        c = shape | positions | tie | {"num_attention_heads": heads, "intermediate_size": draw(size)}
        c["num_key_value_heads"] = draw(
            maybe(st.just(kv_heads)) if family in {"llama", "phi3"} else st.sampled_from([kv_heads, None])
        )
        c["head_dim"] = draw(maybe(st.integers(1, 20)))
        c |= {"attention_bias": draw(flag), "mlp_bias": draw(flag)} if family == "llama" else {}
        c |= {"attention_bias": draw(flag)} if family in {"qwen3", "qwen3_moe", "gpt_oss"} else {}
        moe = family in {"mixtral", "gpt_oss"}
        c |= {"num_local_experts": draw(st.integers(2, 5)), "num_experts_per_tok": 2} if moe else {}
        if family == "qwen3_moe":
            c |= {"num_experts": draw(st.integers(2, 5)), "num_experts_per_tok": 2, "moe_intermediate_size": draw(size)}
    return {"model_type": family} | {name: value for name, value in c.items() if value != "absent"}


@settings(deadline=None)
@given(configs())
def test_parameters_are_those_of_all_tensors_listed_one_by_one(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("hf") / "a-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    spec = load_model(folder)
    tensors = TENSORS[config["model_type"]](config)
    assert spec.params == sum(prod(shape) for shape in tensors.values())
    assert (spec.name, spec.family) == ("a-model", config["model_type"])
    assert load_model(folder / "config.json") == spec


def as_config(spec):
    """A catalogue entry written back as the config.json its maker publishes."""
    c = {
        "model_type": spec.family,
        "vocab_size": spec.vocab,
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "max_position_embeddings": spec.max_context,
        "tie_word_embeddings": spec.tied_embeddings,
    }
    if spec.family == "gptj":
        return {
            "model_type": "gptj", "vocab_size": spec.vocab, "n_embd": spec.hidden, "n_layer": spec.layers,
            "n_head": spec.heads, "n_positions": spec.max_context, "n_inner": None,
        }  # fmt: skip
    if spec.family == "bloom":
        c |= {"n_layer": c.pop("num_hidden_layers"), "n_head": c.pop("num_attention_heads")}
        c |= {"seq_length": c.pop("max_position_embeddings")}
    elif spec.family == "opt":
        c |= {"ffn_dim": spec.ffn}
    elif spec.family == "falcon":
        new = spec.kv_heads > 1
        c |= {
            "num_kv_heads": spec.kv_heads,
            "new_decoder_architecture": new,
            "multi_query": True,
            "parallel_attn": True,
        }
    else:
        c |= {
            "intermediate_size": spec.ffn,
            "moe_intermediate_size": spec.ffn,
            "num_key_value_heads": spec.kv_heads,
            "head_dim": spec.head_dim,
            "sliding_window": spec.sliding_window,
            "attention_bias": spec.qkv_bias,
        }
        experts = "num_experts" if spec.family == "qwen3_moe" else "num_local_experts"
        c |= {experts: spec.experts, "num_experts_per_tok": spec.active_experts}
    return c


UNWRITTEN = ("deepseek", "kimi", "glm-4.5", "lfm2", "llama-4", "minimax-m1", "nemotron", "qwen3-next", "qwen3.5")
"""Models whose layers differ in more than `as_config` can write down."""


@pytest.mark.parametrize("name", [name for name in model_names() if not name.startswith(UNWRITTEN)])
def test_a_shipped_model_reads_the_same_from_its_config_json(tmp_path, name):
    spec = load_model(name)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(as_config(spec)))
    read = load_model(path)
    for quantity in ("params", "active_params", "linear_flops_per_token", "head_flops_per_token", "max_context"):
        assert getattr(read, quantity) == getattr(spec, quantity), quantity
    assert read.kv_bytes_per_token() == spec.kv_bytes_per_token()
    assert read.sliding_window == spec.sliding_window
    assert read.parallel_attention == spec.parallel_attention


# ---- defaults as transformers has them -------------------------------------------------------------------------------

LLAMA = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
FALCON = {
    "model_type": "falcon",
    "vocab_size": 65024,
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
}


def read(tmp_path, config, text=None):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config) if text is None else text)
    return load_model(path)


def test_a_bare_llama_config_gets_transformers_defaults(tmp_path):
    spec = read(tmp_path, LLAMA)
    assert (spec.kv_heads, spec.head_dim, spec.max_context, spec.tied_embeddings) == (32, 128, 2048, False)
    assert spec.params == load_model("llama-2-7b").params


def test_mistral_s_absent_fields_differ_from_its_null_ones(tmp_path):
    mistral = LLAMA | {"model_type": "mistral"}
    assert read(tmp_path, mistral).kv_heads == 8
    assert read(tmp_path, mistral).sliding_window == 4096
    null = read(tmp_path, mistral | {"num_key_value_heads": None, "sliding_window": None})
    assert (null.kv_heads, null.sliding_window) == (32, None)


def test_qwen2_uses_its_window_only_if_told_to(tmp_path):
    qwen = LLAMA | {"model_type": "qwen2", "sliding_window": 1000}
    assert read(tmp_path, qwen).sliding_window is None
    assert read(tmp_path, qwen | {"use_sliding_window": True}).sliding_window == 1000


def test_falcon_is_multi_query_unless_told_otherwise(tmp_path):
    assert read(tmp_path, FALCON).params == load_model("falcon-7b").params
    assert read(tmp_path, FALCON | {"multi_query": False}).kv_heads == 71
    assert read(tmp_path, FALCON | {"new_decoder_architecture": True, "num_kv_heads": 1}).norms_per_layer == 2


def test_falcon_files_from_before_it_joined_transformers_are_read(tmp_path):
    old = {"model_type": "RefinedWeb", "vocab_size": 65024, "hidden_size": 8192, "n_layer": 60, "n_head": 128}
    assert read(tmp_path, old | {"n_head_kv": 8, "parallel_attn": True}).params == load_model("falcon-40b").params


def test_an_opt_350m_projects_its_narrow_embedding_in_and_out(tmp_path):
    config = {
        "model_type": "opt",
        "vocab_size": 50272,
        "hidden_size": 1024,
        "word_embed_proj_dim": 512,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "ffn_dim": 4096,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": False,
    }
    # huggingface.co/facebook/opt-350m: 331,196,416 parameters.
    assert read(tmp_path, config).params == 331_196_416


def test_the_language_model_of_a_file_with_a_vision_tower_is_read(tmp_path):
    text = {"model_type": "ministral3", "head_dim": 128, "num_key_value_heads": 8, "tie_word_embeddings": True}
    text |= {"hidden_size": 3072, "intermediate_size": 9216, "num_attention_heads": 32, "num_hidden_layers": 26}
    text |= {"vocab_size": 131072, "max_position_embeddings": 262144, "sliding_window": None}
    spec = read(tmp_path, {"model_type": "mistral3", "text_config": text, "vision_config": {"hidden_size": 1024}})
    assert spec.params == load_model("ministral-3-3b").params


def test_layers_without_experts_among_those_with_are_refused(tmp_path):
    config = LLAMA | {
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 768,
    }
    assert read(tmp_path, config | {"mlp_only_layers": [], "decoder_sparse_step": 1}).experts == 8
    with pytest.raises(ModelError, match=r"mlp_only_layers = \[0\] means layers without experts"):
        read(tmp_path, config | {"mlp_only_layers": [0]})


def test_an_architecture_alone_is_enough(tmp_path):
    config = {k: v for k, v in LLAMA.items() if k != "model_type"} | {"architectures": ["LlamaForCausalLM"]}
    assert read(tmp_path, config).family == "llama"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, r"the architecture 'mamba' is not modelled; known: bloom, deepseek_v2"),
        ({"model_type": "mixtrl"}, r"unknown architecture 'mixtrl'; did you mean 'mixtral'\?"),
        ({"model_type": 3}, r"neither model_type nor architectures names the architecture"),
        ({"model_type": None, "architectures": []}, r"neither model_type nor architectures"),
        ({"hidden_size": None}, r"hidden_size is missing"),
        ({"hidden_size": -4096}, r"hidden_size = -4096 must be a whole number of 1 or more"),
        ({"hidden_size": 4096.5}, r"hidden_size = 4096\.5 must be a whole number"),
        ({"hidden_size": "4096"}, r"hidden_size = '4096' must be a whole number"),
        ({"hidden_size": True}, r"hidden_size = True must be a whole number"),
        ({"hidden_size": 4097}, r"hidden_size = 4097 is not a multiple of the 32 attention heads; add head_dim"),
        ({"hidden_size": 2**40}, r"hidden = 1099511627776 is out of range"),
        ({"num_hidden_layers": 10**9}, r"layers = 1000000000 is out of range"),
        ({"num_key_value_heads": 5}, r"kv_heads = 5 must divide heads = 32"),
        ({"num_key_value_heads": 0}, r"num_key_value_heads = 0 must be a whole number of 1 or more"),
        ({"tie_word_embeddings": "yes"}, r"tie_word_embeddings = 'yes' must be true or false"),
        ({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3}, r"active_experts = 3 exceeds"),
    ],
)
def test_a_bad_config_is_refused_in_one_sentence(tmp_path, change, message):
    with pytest.raises(ModelError, match=message) as caught:
        read(tmp_path, LLAMA | change)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is not valid JSON"),
        ('{"hidden_size": ', r"is not valid JSON"),
        ("[1, 2]", r"holds a JSON list, not an object"),
        ("[" * 100_000, r"is not valid JSON"),
        ('{"model_type": "llama", "hidden_size": NaN}', r"NaN is no finite number"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path, text, message):
    with pytest.raises(ModelError, match=message):
        read(tmp_path, None, text)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ModelError, match="is not valid JSON"):
        load_model(path)


def test_a_folder_without_config_says_what_it_looked_for(tmp_path):
    with pytest.raises(ModelError, match=r"cannot read .*config\.json"):
        load_model(tmp_path)


# ---- parts, windows and contexts -------------------------------------------------------------------------------------


def gemma3(layers, **text):
    text = {"model_type": "gemma3_text", "num_hidden_layers": layers, "sliding_window": 1024, **text}
    text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
    return {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}}


def test_gemma_3_leaves_out_what_its_class_says(tmp_path):
    spec = read(tmp_path, gemma3(34, hidden_size=2560, intermediate_size=10240))
    assert (spec.heads, spec.kv_heads, spec.head_dim, spec.vocab, spec.max_context) == (8, 4, 256, 262_208, 131_072)
    # Of google/gemma-3-4b: 3,880,099,328 with a table of 262,144 rows; this one has 64 more of 2,560.
    assert spec.params == 3_880_099_328 + 64 * 2560
    assert spec.kv_bytes_per_token() == 139_264
    large = {"hidden_size": 3840, "intermediate_size": 15360, "num_attention_heads": 16, "num_key_value_heads": 8}
    assert read(tmp_path, gemma3(48, **large)).kv_bytes_per_token() == 393_216
    assert (spec.pattern, spec.notes) == ("wwwwwf", ())


def test_llava_s_language_model_is_a_llama_of_its_class(tmp_path):
    text = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096, "vocab_size": 32_064}
    config = {"model_type": "llava", "text_config": text, "tie_word_embeddings": False}
    spec = read(tmp_path, config)
    # Llama-2-7B of 6,738,415,616 parameters with 64 more rows in two tables of 4,096.
    assert spec.params == 6_738_415_616 + 2 * 64 * 4096
    assert spec.max_context == 4096
    assert read(tmp_path, config | {"text_config": {"vocab_size": 32_064}}).params == spec.params


@pytest.mark.parametrize(
    ("kind", "family"), [("qwen3_vl", "qwen3"), ("qwen2_5_vl", "qwen2"), ("qwen3_vl_moe", "qwen3_moe")]
)
def test_a_qwen_with_eyes_is_the_qwen_of_the_same_fields(tmp_path, kind, family):
    fields = LLAMA | {"num_key_value_heads": 8, "head_dim": 128, "num_experts": 8, "num_experts_per_tok": 2}
    fields |= {"moe_intermediate_size": 768, "tie_word_embeddings": False}
    alone = read(tmp_path, fields | {"model_type": family})
    nested = read(tmp_path, {"model_type": kind, "text_config": fields | {"model_type": f"{kind}_text"}})
    assert (nested.params, nested.kv_bytes_per_token()) == (alone.params, alone.kv_bytes_per_token())
    assert nested.family == alone.family == family


def test_the_whole_says_whether_tables_are_one(tmp_path):
    text = LLAMA | {"model_type": "qwen3_vl_text", "tie_word_embeddings": True}
    assert not read(tmp_path, {"tie_word_embeddings": False, "text_config": text}).tied_embeddings
    assert read(tmp_path, {"text_config": text}).tied_embeddings


@pytest.mark.parametrize("kind", ["gemma4_text", "qwen4", "mllama_text_model", "rwkv"])
def test_an_architecture_that_is_not_modelled_is_not_taken_for_its_neighbour(tmp_path, kind):
    with pytest.raises(ModelError, match="is not modelled; known: ") as caught:
        read(tmp_path, LLAMA | {"model_type": kind})
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "pattern", "kept"),
    [
        ({"model_type": "mistral", "sliding_window": 100}, "", 32 * 100),
        ({"model_type": "gemma2", "sliding_window": 100}, "wf", 16 * 100 + 16 * 1000),
        ({"model_type": "gemma3_text", "sliding_window": 100}, "wwwwwf", 27 * 100 + 5 * 1000),
        ({"model_type": "gemma3_text", "sliding_window": 100, "sliding_window_pattern": 2}, "wf", 16 * 1100),
        ({"model_type": "qwen2", "sliding_window": 100, "use_sliding_window": True, "max_window_layers": 28},
         "f" * 28 + "w" * 4, 28 * 1000 + 4 * 100),
        ({"model_type": "qwen3", "sliding_window": 100, "use_sliding_window": True, "max_window_layers": 40},
         "", 32_000),
        ({"model_type": "gemma3_text", "sliding_window": 100, "layer_types": ["full_attention"] * 32}, "", 32_000),
        ({"model_type": "gemma2", "sliding_window": 100,
          "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * 8},
         "wwwf", 24 * 100 + 8 * 1000),
    ],
)  # fmt: skip
def test_layers_with_a_window_keep_no_more_than_it(tmp_path, config, pattern, kept):
    spec = read(tmp_path, LLAMA | config)
    assert spec.pattern == pattern
    assert spec.kv_bytes(1000, 1.0) == kept * 2 * spec.kv_heads * spec.head_dim
    assert spec.kv_bytes(100, 1.0) == 100 * spec.kv_bytes_per_token(1.0)


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (["full_attention"] * 31, r"layer_types names 31 layers, num_hidden_layers = 32"),
        (["full_attentoin"] * 32, r"layer_types has 'full_attentoin'; did you mean 'full_attention'"),
        ("full_attention", r"layer_types = 'full_attention' must be a list of words"),
    ],
)
def test_kinds_of_layers_must_be_known_and_as_many_as_layers(tmp_path, types, message):
    with pytest.raises(ModelError, match=message):
        read(tmp_path, LLAMA | {"model_type": "gemma2", "layer_types": types})


@pytest.mark.parametrize(
    ("scaling", "context", "noted"),
    [
        ({"type": "linear", "factor": 4.0}, 16_384, "context 16,384 = 4,096 x 4 by rope_scaling"),
        ({"rope_type": "dynamic", "factor": 2}, 8192, "context 8,192 = 4,096 x 2"),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 3000}, 12_000, "engines differ"),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096, ""),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 4096, ""),
        ({"rope_type": "longrope", "factor": 8.0}, 4096, ""),
        ({"rope_type": "linear", "factor": "4"}, 4096, ""),
        ({"rope_type": "linear", "factor": True}, 4096, ""),
        ({"rope_type": "linear", "factor": 0.5}, 4096, ""),
        ({"rope_type": "linear"}, 4096, ""),
        (None, 4096, ""),
    ],
)
def test_scaled_positions_reach_further_and_the_run_is_told(tmp_path, scaling, context, noted):
    spec = read(tmp_path, LLAMA | {"max_position_embeddings": 4096, "rope_scaling": scaling})
    assert spec.max_context == context
    assert noted in " ".join(spec.notes)
    assert bool(spec.notes) == bool(noted)
