"""Prefix-hash traces: Mooncake (FAST'25, ms, blocks of 512 tokens) and Qwen-Bailian (ATC'25, s, blocks of 16).

Equal hash ids mean equal prompt prefixes up to and with that block. Mooncake hashes every block, the last partial one
too: ceil(input_length / 512) ids, and a row that breaks this is refused. Others write the same columns in seconds, or
with other blocks, some without the last partial one (Dynamo, vLLM, GuideLLM): the user says so. Qwen's paper gives no
rule: rows may have at most that many ids. A Qwen conversation is the chain of parent_chat_id; its root's chat_id is the
session.
Sources: github.com/kvcache-ai/Mooncake and alibaba-edu/qwen-bailian-usagetraces-anon, both Apache-2.0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from afterwatt.traces.cells import ints
from afterwatt.traces.peek import Peek
from afterwatt.traces.records import PREFIXES, PROMPT, SESSION
from afterwatt.traces.table import RowChunk
from afterwatt.traces.tableformat import MILLISECONDS, Fields, Rules, TableFormat

_BLOCK = 512


def check_block_counts(
    chunk: RowChunk, fields: Fields, column: str, block_tokens: int, way_out: str = ""
) -> NDArray[np.int64]:
    """Refuse a row with more hash ids than its prompt has blocks.

    Args:
        chunk: the rows.
        fields: what was read of them.
        column: of the hash ids.
        block_tokens: tokens per block.
        way_out: what else the user may do.

    Returns:
        How many ids each row has.

    Raises:
        TraceError: at the first such row.
    """
    have = np.asarray(pc.list_value_length(fields[PREFIXES]))
    rule = f"hash ids than its prompt has blocks of {block_tokens} tokens; correct or remove the row{way_out}"
    chunk.columns[column].fail_where(have > -(-fields[PROMPT] // block_tokens), f"has more {rule}")
    return have


class _Mooncake(TableFormat):
    def rules(self, peek: Peek) -> Rules:
        """One hash id per block; where the user says the size, the last partial block may go without."""
        del peek
        size = self.block_tokens or _BLOCK
        way_out = ", or say block=16 if its blocks are of another size"

        def check(chunk: RowChunk, fields: Fields) -> None:
            have = check_block_counts(chunk, fields, "hash_ids", size, way_out)
            whole = size == _BLOCK
            least = -(-fields[PROMPT] // size) if whole else fields[PROMPT] // size
            rule = f"hash ids than its prompt has blocks of {size} tokens; correct or remove the row{way_out}"
            chunk.columns["hash_ids"].fail_where(have < least, f"has fewer {rule}")

        return check


@dataclass(frozen=True)
class _Qwen(TableFormat):
    def rules(self, peek: Peek) -> Rules:
        """Chat ids are unique; parents lead to sessions. Remembers every chat id: some 100 bytes a row."""
        del peek
        root_of: dict[int, int] = {}

        def check(chunk: RowChunk, fields: Fields) -> None:
            check_block_counts(chunk, fields, "hash_ids", 16)
            chats = ints(chunk.columns["chat_id"], 0, 2**62, "chat ids").tolist()
            parents = ints(chunk.columns["parent_chat_id"], -1, 2**62, "chat ids").tolist()
            sessions = []
            for index, (chat, parent) in enumerate(zip(chats, parents, strict=True)):
                if chat in root_of:
                    chunk.columns["chat_id"].fail(index, "stands on an earlier row too; chat ids are unique")
                # A parent outside the file (a cut trace) is the oldest turn known.
                root_of[chat] = chat if parent == -1 else root_of.get(parent, parent)
                sessions.append(str(root_of[chat]))
            fields[SESSION] = pa.array(sessions, pa.string())

        return check


MOONCAKE = _Mooncake(
    name="mooncake",
    about="Mooncake FAST'25: timestamp in ms, hash_ids per 512 tokens",
    arrival="timestamp",
    prompt="input_length",
    output="output_length",
    prefixes="hash_ids",
    clock=MILLISECONDS,
    block_tokens=_BLOCK,
    loose=True,
)

QWEN = _Qwen(
    name="qwen-bailian",
    about="Qwen-Bailian: timestamp in s, hash_ids per 16 tokens, conversations by parent_chat_id",
    arrival="timestamp",
    prompt="input_length",
    output="output_length",
    klass="type",
    prefixes="hash_ids",
    block_tokens=16,
    marks=("chat_id", "parent_chat_id"),
)
