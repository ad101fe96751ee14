"""One model behind the command line, a study file and Python: the same object, the same rules, the same sentences."""

from pathlib import Path

import pytest

from afterwatt.studies.config import StudyConfig, gather, words
from afterwatt.studies.errors import OptionError

SAID = {
    "hw": ["m40", "t4"],
    "rate": 2,
    "slo": "ttft=1s,tpot=200ms",
    "think": None,
    "horizon": "1h",
    "warmup": "90s",
    "duty": 0.5,
    "start": "2023-06-01T00:00:00Z",
    "grid_zone": "FR",
    "grid": "/hourly.csv",
    "no_report": True,
    "json": True,
}


def in_a_file(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def test_three_ways_to_say_a_study_make_one_object(tmp_path: Path):
    path = in_a_file(
        tmp_path,
        """
        hw = ["m40", "t4"]
        rate = 2
        slo = "ttft=1s,tpot=200ms"
        horizon = "1h"
        warmup = "90s"
        duty = 0.5
        start = 2023-06-01T00:00:00Z
        grid-zone = "FR"
        grid = "/hourly.csv"
        no_report = true
        json = true
        """,
    )
    command = {
        word: str(said) if isinstance(said, int | float) and said is not True else said for word, said in SAID.items()
    }
    assert StudyConfig(**SAID) == gather(command) == gather({}, path)


def test_quantities_are_in_the_unit_of_their_name():
    told = StudyConfig(**SAID)
    assert (told.rate_per_s, told.horizon_s, told.warmup_s, told.duty_frac) == (2.0, 3600.0, 90.0, 0.5)
    assert told.slo is not None
    assert (told.slo.ttft_s, told.slo.tpot_s, told.slo.e2e_s) == (1.0, 0.2, None)


def test_one_word_stands_for_a_list_of_one():
    assert StudyConfig(hw="m40", site=["fr", "fr"]) == StudyConfig(hw=["m40"], site=("fr",))


def test_the_command_line_wins_over_the_file(tmp_path: Path):
    path = in_a_file(tmp_path, 'hw = "m40"\nlimit = 5\n')
    assert gather({"hw": ["t4"], "limit": None, "quiet": False}, path) == StudyConfig(hw="t4", limit=5)


def test_paths_of_a_file_are_beside_it_and_names_are_not(tmp_path: Path):
    path = in_a_file(tmp_path, 'hw = ["m40", "deep/mine.toml"]\ntrace = "t.csv"\nout = "result"\nsite = "mine.toml"\n')
    told = gather({}, path)
    assert told.hw == ("m40", str(tmp_path / "deep/mine.toml"))
    assert (told.trace, told.out) == (str(tmp_path / "t.csv"), str(tmp_path / "result"))
    assert told.site == (str(tmp_path / "mine.toml"),)
    assert gather({}, in_a_file(tmp_path, 'trace = "synth:chat?n=5"\n')).trace == "synth:chat?n=5"


def test_the_sample_is_meant_where_no_such_file_is_beside_the_study(tmp_path: Path):
    path = in_a_file(tmp_path, 'trace = "chat.parquet"\n')
    assert gather({}, path).trace == "chat.parquet"
    (tmp_path / "chat.parquet").write_text("")
    assert gather({}, path).trace == str(tmp_path / "chat.parquet")


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"hww": "m40"}, "unknown word 'hww'; did you mean 'hw'?"),
        ({"grid-zone": "FR"}, "did you mean 'grid_zone'?"),
        ({"rate_per_s": 2}, "unknown word 'rate_per_s'"),
        ({"limit": True}, "limit = True must be a whole number"),
        ({"limit": 2.0}, "limit = 2.0 must be a whole number"),
        ({"quiet": 1}, "quiet = 1 must be true or false"),
        ({"hw": 40}, "hw = 40 must be a word or a list of words"),
        ({"think": 5, "users": 2}, "think = 5 has no unit; write 5s"),
        ({"batch": 8}, "batch 8 needs prompt; write for example prompt 128"),
        ({"batch": 8, "prompt": 5, "output": 5, "think": "1s"}, "think speaks of another"),
        ({"basis": "marginal"}, "give one with grid"),
        ({"horizon": "1s", "warmup": "1s"}, "warmup = 1s leaves nothing of horizon = 1s"),
    ],
)
def test_in_python_the_sentences_are_those_of_the_command_line_without_dashes(said, says: str):
    with pytest.raises(OptionError) as fault:
        StudyConfig(**said)
    assert says in str(fault.value)
    assert "--" not in str(fault.value)


def test_a_study_cannot_be_changed_behind_the_back_of_its_checks():
    told = StudyConfig()
    with pytest.raises(ValueError, match="frozen"):
        told.limit = 0


def test_every_word_is_known_by_the_schema_that_editors_read():
    assert set(StudyConfig.model_json_schema()["properties"]) == set(words())
