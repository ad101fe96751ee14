"""Experts of a mixture that are spread over GPUs: whom a token reaches, and how unevenly they are loaded.

Every GPU of such a group holds whole experts. The replicas that share them (data parallel) hold all else each, and send
each token to the GPUs of its experts and what these make of it back: an all-to-all there and one back, in each layer.

All replicas of a group are taken to run the same number of tokens at a time, as they do behind an even router under
load. Engines keep them in step in any case: one without a request runs an empty pass (vLLM 0.12,
docs.vllm.ai/en/v0.12.0/serving/data_parallel_deployment/).
"""

from math import comb
from typing import Final

from afterwatt.hwprofiles.facts import Fact, Rule

IMBALANCE: Final = Rule(1.0, 64.0)
EXPERT_IMBALANCE: Final = Fact(
    1.2,
    "Assumption of this project between what is reported: https://github.com/ROCm/ATOM/pull/1210 (8 GPUs, prompts: "
    "moving experts to where they balance gains 17 % of a server's throughput, copying the busy ones too 34 %); "
    "https://impala-blog.pages.dev/blog/wide-ep-part-3-balancing-portability (1.05 balanced, 1.3 and more skewed)",
    "2026-12-01",
    "assumed",
    1.05,
    1.4,
)
"""Tokens of the GPU whose experts are sent most, over the mean of the group: what a layer waits for."""


def reach_frac(experts: int, active: int, ways: int) -> float:
    """Return the chance that a token is sent to one given GPU of a group.

    That is 1 - C(E - E/g, k) / C(E, k): some of its k experts, a set drawn evenly from all E, lie among the E/g there.

    Args:
        experts: of a layer.
        active: that a token is sent to.
        ways: GPUs that they are spread over evenly.
    """
    return 1.0 - comb(experts - experts // ways, active) / comb(experts, active)
