"""Malformed files are refused in one sentence that names place and value; odd but sound files read the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from afterwatt.traces import TraceError, open_trace

CORPUS = Path(__file__).parents[1] / "corpus" / "traces"

# file: (row, column, what the sentence must say)
BAD = {
    "azure_empty_cell.csv": (2, "GeneratedTokens", "is empty"),
    "azure_nan.csv": (2, "ContextTokens", "'nan' is not a number"),
    "azure_infinite.csv": (2, "GeneratedTokens", "'inf' is not a number"),
    "azure_negative.csv": (2, "GeneratedTokens", "'-109' is below 1"),
    "azure_zero_prompt.csv": (2, "ContextTokens", "'0' is below 1"),
    "azure_zero_output.csv": (2, "GeneratedTokens", "'0' is below 1"),
    "azure_fraction.csv": (2, "ContextTokens", "'396.5' has a fraction"),
    "azure_huge.csv": (2, "ContextTokens", "'1000000000000' is more than 100,000,000"),
    "azure_beyond_int64.csv": (2, "ContextTokens", "is more than 100,000,000"),
    "azure_word.csv": (2, "ContextTokens", "'many' is not a number"),
    "azure_ragged.csv": (2, None, "has 4 cells, but the header names 3"),
    "azure_short_row.csv": (2, None, "has 2 cells, but the header names 3"),
    "azure_unsorted.csv": (3, "TIMESTAMP", "--sort"),
    "azure_zone_missing.csv": (1, "TIMESTAMP", "zone included"),
    "azure_zone_lost_midway.csv": (2, "TIMESTAMP", "zone included"),
    "azure_zone_gained_midway.csv": (2, "TIMESTAMP", "no zone"),
    "azure_day_first.csv": (1, "TIMESTAMP", "'16/11/2023 18:15' is not a date and time of the form"),
    "azure_before_1970.csv": (1, "TIMESTAMP", "lies before 1970"),
    "azure_header_only.csv": (None, None, "no request"),
    "azure_column_twice.csv": (None, "ContextTokens", "twice"),
    "azure_column_typo.csv": (None, None, "did you mean 'ContextToken'"),
    "empty.csv": (None, None, "is empty"),
    "blank.csv": (None, None, "is blank"),
    "semicolons.csv": (None, None, "semicolons"),
    "unknown_columns.csv": (None, None, "no trace format known here"),
    "latin1.csv": (None, None, "UTF-8"),
    "utf16.csv": (None, None, "UTF-16"),
    "lfs_pointer.csv": (None, None, "git lfs pull"),
    "unclosed_quote.csv": (2, "class", "spans lines"),
    "own_unsorted.csv": (3, "arrival_s", "'1.5' lies before"),
    "own_nan_arrival.csv": (2, "arrival_s", "'nan' is not a finite number"),
    "own_infinite_arrival.csv": (2, "arrival_s", "'inf' is not a finite number"),
    "own_negative_arrival.csv": (1, "arrival_s", "'-1.0' is no arrival time"),
    "own_empty_arrival.csv": (1, "arrival_s", "is empty"),
    "own_milliseconds.csv": (None, "arrival_s", "looks like milliseconds; say unit=ms"),
    "own_nanoseconds.csv": (None, "arrival_s", "more than 20 years"),
    "own_epoch_milliseconds.csv": (1, "arrival_s", "say unit=ms"),
    "own_rate_beyond_belief.csv": (None, "arrival_s", "more than a million"),
    "own_duplicate_id.csv": (3, "request_id", "'8' stands on the row above too"),
    "own_falling_id.csv": (3, "request_id", "'8' is not above"),
    "own_prefix_words.csv": (2, "prefix_hashes", "'1 two' is not a list of hash ids"),
    "own_prefix_negative.csv": (2, "prefix_hashes", "negative hash id"),
    "own_prefix_no_block.csv": (None, "prefix_hashes", "prefix_block_tokens"),
    "own_prefix_two_sizes.csv": (2, "prefix_block_tokens", "'16' differs from the first row's 512"),
    "own_prefix_too_many.csv": (2, "prefix_hashes", "more hash ids than its prompt has blocks"),
    "mooncake_too_few_hashes.jsonl": (2, "hash_ids", "fewer hash ids"),
    "mooncake_too_many_hashes.jsonl": (2, "hash_ids", "more hash ids"),
    "mooncake_missing_key.jsonl": (2, "output_length", "key is missing"),
    "mooncake_cut_short.jsonl": (2, None, "not JSON"),
    "mooncake_null.jsonl": (2, "input_length", "null stands where a value is required"),
    "mooncake_nan.jsonl": (2, "input_length", "nan is not a number"),
    "mooncake_bool.jsonl": (2, "input_length", "True is not a number"),
    "mooncake_text.jsonl": (2, "input_length", "'600' is not a number"),
    "mooncake_hash_text.jsonl": (2, "hash_ids", "not a list of whole numbers"),
    "mooncake_hash_null.jsonl": (2, "hash_ids", "null or negative hash id"),
    "mooncake_hash_scalar.jsonl": (2, "hash_ids", "7 is not a list"),
    "mooncake_beyond_int64.jsonl": (2, "input_length", "is not a number that can be read"),
    "mooncake_line_is_list.jsonl": (2, None, "not a JSON object"),
    "mooncake_unsorted.jsonl": (2, "timestamp", "4 lies before"),
    "deep_nesting.jsonl": (1, None, "not JSON"),
    "qwen_half_of_a_pair.jsonl": (2, "type", "one half of a pair of UTF-16"),
    "qwen_duplicate_chat.jsonl": (3, "chat_id", "1 stands on an earlier row too"),
    "burstgpt_wrong_sum.csv": (2, "Total tokens", "'1318' is not the sum"),
    "burstgpt_answer_to_nothing.csv": (2, "Request tokens", "drop_empty"),
    "burstgpt_all_failed.csv": (None, None, "all 2 rows"),
    "splitwise_batch.csv": (2, "batch_size", "'4' means several requests"),
    "splitwise_type.csv": (2, "request_type", "'1' is not 2"),
    "splitwise_duplicate_id.csv": (2, "request_id", "'0' stands on an earlier row too"),
    "vidur_no_arrivals.csv": (None, None, "rate=5"),
    "vidur_wrong_total.csv": (1, "num_total_tokens", "'111' is not the sum"),
    "sharegpt_text_only.json": (1, "conversations", "not tokenised here"),
    "sharegpt_cut_short.json": (1, None, "broken"),
    "list_of_numbers.json": (1, "conversations", "not a ShareGPT conversation"),
    "llmservingsim_negative.jsonl": (2, "arrival_time_ns", "-1 is below 0"),
    "servegen_no_lengths.csv": (None, None, "lengths=FILE"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_file_is_refused_with_place_value_and_rule(name):
    row, column, words = BAD[name]
    with pytest.raises(TraceError) as caught:
        open_trace(CORPUS / "bad" / name)
    said = str(caught.value)
    assert words in said
    assert "\n" not in said
    assert said.startswith(str(CORPUS / "bad" / name))
    assert (caught.value.row, caught.value.column) == (row, column)
    assert row is None or f"row {row}" in said
    assert column is None or f"column '{column}'" in said


def test_the_table_above_covers_the_corpus():
    assert {file.name for file in (CORPUS / "bad").iterdir()} == set(BAD)


@pytest.mark.parametrize("name", sorted(file.name for file in (CORPUS / "fine").iterdir()))
def test_odd_but_sound_files_hold_the_same_two_requests(name):
    batch = open_trace(CORPUS / "fine" / name).head(5)
    assert batch.prompt_tokens.tolist() == [374, 396]
    assert batch.output_tokens.tolist() == [44, 109]
    later = {"own_tied_arrivals.csv": 0.0, "azure_2024.csv": 1.00993}.get(name, 1.0)
    assert batch.arrival_s.tolist() == [0.0, later]


def test_classes_sessions_and_prefixes_are_carried():
    fine = CORPUS / "fine"
    assert open_trace(fine / "own_class_and_session.csv").head(2).klass == ["chat", None]
    assert open_trace(fine / "burstgpt_3.csv").head(2).session == ["1722ac82-0a46", None]
    assert open_trace(fine / "burstgpt.csv").head(2).klass == ["Conversation log", "API log"]
    qwen = open_trace(fine / "qwen.jsonl")
    assert qwen.head(2).session == ["1", "1"], "the second turn belongs to the first one's conversation"
    assert qwen.head(2).prefixes == [(1, 2), (1, 2, 3)]
    assert (qwen.info.prefix_block_tokens, qwen.info.has_prefixes) == (16, True)


def test_burstgpt_failures_are_left_out_counted_and_told():
    info = open_trace(CORPUS / "fine" / "burstgpt.csv").info
    assert info.rows == 2
    assert any(note.startswith("2 of 4 rows read are left out: 0 response tokens") for note in info.notes)


def test_columns_that_are_not_carried_are_named():
    assert "columns not carried on: Model" in open_trace(CORPUS / "fine" / "burstgpt.csv").info.notes


def test_sorting_on_request_repairs_an_unsorted_file():
    trace = open_trace(CORPUS / "bad" / "own_unsorted.csv", sort=True)
    assert trace.head(3).arrival_s.tolist() == [0.0, 1.5, 2.5]


def test_a_stated_unit_settles_what_the_numbers_cannot():
    path = CORPUS / "bad" / "own_milliseconds.csv"
    assert open_trace(path, unit="ms").info.span_s == pytest.approx(39 * 0.294)
    assert open_trace(f"{path}?unit=s").info.span_s == 39 * 294
    epoch = open_trace(CORPUS / "bad" / "own_epoch_milliseconds.csv", unit="ms")
    np.testing.assert_array_equal(epoch.head(3).arrival_s, [0.0, 0.294, 0.588])


def test_empty_requests_can_be_left_out_on_request_and_are_counted():
    info = open_trace(CORPUS / "bad" / "azure_zero_prompt.csv", drop_empty=True).info
    assert info.rows == 1
    assert any("1 of 2 rows read are left out" in note for note in info.notes)


def test_a_rate_gives_arrivals_to_a_format_without():
    trace = open_trace(CORPUS / "bad" / "vidur_no_arrivals.csv", rate_per_s=5)
    assert trace.head(1).prompt_tokens.tolist() == [100]
    assert any("drawn" in note for note in trace.info.notes)


def test_counted_conversations_become_requests_with_their_history_as_prompt(tmp_path):
    path = tmp_path / "sharegpt.json"
    turns = [("gpt", 4), ("human", 10), ("gpt", 20), ("human", 30), ("gpt", 40)]
    said = [{"from": who, "value": "…", "num_tokens": n} for who, n in turns]
    path.write_text(json.dumps([{"id": "a", "conversations": said}, {"id": "b", "conversations": said[1:3]}]))
    whole = open_trace(path, rate_per_s=1.0).head(9)
    assert whole.prompt_tokens.tolist() == [14, 64, 10]
    assert whole.output_tokens.tolist() == [20, 40, 20]
    assert whole.session == ["a", "a", "b"]


def test_a_conversation_list_longer_than_the_reading_block_is_read_whole(tmp_path):
    path = tmp_path / "long.json"
    one = {"conversations": [{"from": "human", "value": "x" * 5000, "num_tokens": 5}, {"from": "gpt", "num_tokens": 6}]}
    path.write_text(json.dumps([one] * 1000, indent=1))
    assert open_trace(path, rate_per_s=1.0).info.rows == 1000
