"""The sample that ships with the project, and the command that made it.

    python -m afterwatt.traces.sample --rate 0.28

Its requests are synthetic: the chat preset with prompts scaled to a third (a few hundred tokens, as in short chats),
all within 4,096 tokens. The rate is what one Tesla M40 24 GB can just carry with Llama-2-7B in fp16: `simulate --hw
m40` measures a capacity near 0.38 requests/s for this mix, of which 0.28 is three quarters.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # where it lies is asked for by every run, how it is drawn by hardly any
    from afterwatt.traces.synth import SyntheticTrace

RATE_PER_S = 0.28
REQUESTS = 2000
SEED = 1
PROMPT_SCALE = 0.33
MAX_TOTAL_TOKENS = 4096
_FILE = "data/chat.parquet"


def sample_path() -> Path:
    """Where the shipped `chat.parquet` lies."""
    return Path(__file__).parent / _FILE


def sample_trace(rate_per_s: float = RATE_PER_S) -> SyntheticTrace:
    """The sample's requests, drawn anew."""
    from afterwatt.traces.synth import SyntheticTrace

    return SyntheticTrace(
        "chat",
        rate_per_s=rate_per_s,
        requests=REQUESTS,
        seed=SEED,
        prompt_scale=PROMPT_SCALE,
        max_total_tokens=MAX_TOTAL_TOKENS,
    )


def main(arguments: list[str] | None = None) -> None:
    """Write the sample."""
    from afterwatt.traces.write import write_parquet

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=RATE_PER_S, help=f"requests per second (default {RATE_PER_S})")
    parser.add_argument("--out", type=Path, default=sample_path(), help="file to write (default: the shipped one)")
    chosen = parser.parse_args(arguments)
    rows = write_parquet(sample_trace(chosen.rate), chosen.out)
    sys.stdout.write(f"wrote {rows} requests to {chosen.out}\n")


if __name__ == "__main__":
    main()
