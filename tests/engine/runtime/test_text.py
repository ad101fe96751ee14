"""Text to tokens: what a tokenizer.json was last used with does not cut or fill up a prompt."""

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.text import text_of

LETTERS = "abcdefghij"


def write(folder: Path) -> Tokenizer:
    """A token for each letter."""
    tokenizer = Tokenizer(WordLevel({letter: place for place, letter in enumerate(LETTERS)}, unk_token="a"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def test_truncation_and_padding_of_the_file_are_reset(tmp_path: Path):
    """40 letters are 40 tokens, as transformers and vLLM have it; the library alone makes 8 of them, or 64."""
    tokenizer = write(tmp_path)
    plain = text_of(tmp_path, 300).encode(LETTERS * 4)
    assert list(plain) == list(range(10)) * 4
    tokenizer.enable_truncation(8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(LETTERS * 4).ids) == 8
    assert list(text_of(tmp_path, 300).encode(LETTERS * 4)) == list(plain)
    tokenizer.no_truncation()
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert list(text_of(tmp_path, 300).encode(LETTERS * 4)) == list(plain)


@pytest.mark.parametrize("kind", ["pipe", "zeros", "nested", "huge"])
def test_what_is_no_tokenizer_is_one_sentence(tmp_path: Path, kind: str):
    path = tmp_path / "tokenizer.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zeros":
        path.symlink_to("/dev/zero")
    elif kind == "nested":
        path.write_text("[" * 10**5)
    else:
        with path.open("wb") as stream:
            stream.truncate(1 << 40)
    with pytest.raises(EngineError, match="cannot be read as a tokenizer"):
        text_of(tmp_path, 300)
