"""Logits equal transformers', however the work is cut up, batched, and laid out in memory."""

import pytest
import torch

from tests.engine.model.tiny import KINDS, VOCAB, Sequence, load, logits_of

TOLERANCE = 1e-4


def expected(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float()


def text(length: int, seed: int) -> list[int]:
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_prompt_then_token_by_token(kind: str, tiny):
    folder, model = tiny(kind)
    compute = load(folder)
    tokens = text(120, 3)
    wanted = expected(model, tokens)
    assert wanted.std() > 0.5  # else anything would be close
    seq = Sequence(tokens[:90], list(range(40)))
    close(logits_of(compute, [(seq, 90)])[0], wanted[89])
    for place in range(90, 120):
        seq.tokens = tokens[: place + 1]
        close(logits_of(compute, [(seq, 1)])[0], wanted[place])
