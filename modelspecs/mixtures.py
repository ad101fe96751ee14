"""Mixtures with experts shared by all tokens, dense layers among the others, latent attention or chunks.

DeepSeek-V2 and V3, Kimi K2, Qwen2's mixture, GLM-4.5, Llama 4 and MiniMax-M2. Fields and defaults: huggingface/
transformers 4.57.1, `models/<family>/configuration_<family>.py`; which tensors they imply: `modeling_<family>.py`.
Layers that only predict a token after the next are left out, as engines leave them out unless asked.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from afterwatt.modelspecs.configfile import Config
from afterwatt.modelspecs.families import llama_like, windowed
from afterwatt.modelspecs.layers import Latent


def _sparse(config: Config) -> dict[str, Any]:
    """Return what DeepSeek and those after it share: routed and shared experts behind the first dense layers."""
    config.must_be("moe_layer_freq", 1, "layers without experts among those with")
    width, experts = config.count("moe_intermediate_size"), config.count("n_routed_experts")
    return {
        "ffn": width,
        "experts": experts,
        "active_experts": config.count("num_experts_per_tok"),
        "shared_ffn": width * config.count("n_shared_experts", default=0, least=0),
        "dense_layers": config.count("first_k_dense_replace", default=0, least=0),
        "dense_ffn": config.count("intermediate_size"),
        "expert_vectors": experts,  # what corrects the router's scores
    }


def deepseek_v2(config: Config) -> dict[str, Any]:
    """DeepSeek-V2, and V3 but for the router."""
    config.must_be("attention_bias", False, "biases on what latent attention squeezes")
    heads = config.count("num_attention_heads")
    latent = Latent(
        q_rank=config.count("q_lora_rank") if config.has("q_lora_rank") else None,
        kv_rank=config.count("kv_lora_rank"),
        nope_dim=config.count("qk_nope_head_dim"),
        rope_dim=config.count("qk_rope_head_dim"),
        value_dim=config.count("v_head_dim"),
    )
    shape = {
        "layers": config.count("num_hidden_layers"),
        "hidden": config.count("hidden_size"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": latent.nope_dim + latent.rope_dim,
        "ffn_matrices": 3,
        "vocab": config.count("vocab_size"),
        "max_context": config.count("max_position_embeddings", default=2048),
        "norm": "rms",
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "latent": latent,
    }
    return shape | _sparse(config) | {"expert_vectors": 0}


def deepseek_v3(config: Config) -> dict[str, Any]:
    """DeepSeek-V3 and R1, Kimi K2: the router's scores are corrected by a bias."""
    return deepseek_v2(config) | {"expert_vectors": config.count("n_routed_experts")}


def glm4_moe(config: Config) -> dict[str, Any]:
    """GLM-4.5 and 4.6: biases on queries, keys and values; norms of queries and keys in the larger ones."""
    shape = llama_like(config, 8, 131_072)
    norms = 2 * shape["head_dim"] if config.flag("use_qk_norm", default=False) else 0
    return shape | _sparse(config) | {"qkv_bias": config.flag("attention_bias", default=False), "layer_vectors": norms}


def qwen2_moe(config: Config) -> dict[str, Any]:
    """Qwen1.5's and Qwen2's mixtures: a shared expert behind a gate of its own."""
    config.must_be("decoder_sparse_step", 1, "layers without experts among those with")
    config.must_be("mlp_only_layers", [], "layers without experts among those with")
    config.must_be("use_sliding_window", False, "windows")
    shape = llama_like(config, 16, 32_768)
    return shape | {
        "qkv_bias": config.flag("qkv_bias", default=True),
        "ffn": config.count("moe_intermediate_size"),
        "experts": config.count("num_experts"),
        "active_experts": config.count("num_experts_per_tok"),
        "shared_ffn": config.count("shared_expert_intermediate_size"),
        "expert_vectors": shape["hidden"],
    }


def llama4(config: Config) -> dict[str, Any]:
    """Llama 4: three layers of four attend within a chunk; experts in every layer or every other one."""
    config.must_be("attention_bias", False, "biases")
    config.must_be("moe_layers", None, "experts in layers of their own")
    shape = llama_like(config, 8, 131_072)
    layers, width = shape["layers"], shape["ffn"]
    step = config.count("interleave_moe_layer_step", default=1)
    chunk = config.count("attention_chunk_size") if config.has("attention_chunk_size") else None
    sparse = {
        "experts": config.count("num_local_experts", default=16),
        "active_experts": config.count("num_experts_per_tok", default=1),
        "shared_ffn": width,
        "dense_layers": layers - layers // step,
        "dense_ffn": config.count("intermediate_size_mlp", default=16_384),
    }
    return shape | sparse | windowed(config, layers, chunk, "wwwf")


def minimax_m2(config: Config) -> dict[str, Any]:
    """MiniMax-M2: norms over all queries and all keys of a layer, a bias on the router's scores."""
    shape = llama_like(config, 8, 196_608)
    config.must_be("shared_intermediate_size", 0, "a shared expert")
    experts = config.count("num_local_experts")
    norms = (shape["heads"] + shape["kv_heads"]) * shape["head_dim"]
    return shape | {
        "experts": experts,
        "active_experts": config.count("num_experts_per_tok"),
        "layer_vectors": norms if config.flag("use_qk_norm", default=True) else 0,
        "expert_vectors": experts if config.flag("use_routing_bias", default=True) else 0,
    }


MIXTURES: Mapping[str, Callable[[Config], dict[str, Any]]] = MappingProxyType(
    {
        "deepseek_v2": deepseek_v2,
        "deepseek_v3": deepseek_v3,
        "kimi_k2": deepseek_v3,
        "glm4_moe": glm4_moe,
        "qwen2_moe": qwen2_moe,
        "llama4_text": llama4,
        "minimax_m2": minimax_m2,
    }
)
"""model_type -> reader."""
