"""What simulate prints fits the terminal, is plain when piped, and says the same as the page."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from afterwatt.reports.rundir import Run
from afterwatt.reports.terminal import default_console, print_runs


def printed(runs: list[Run], width: int, report: Path | None = None) -> str:
    out = io.StringIO()
    print_runs(runs, Console(file=out, width=width), report)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("how_many", [1, 2, 4])
def test_the_table_fits_the_width(fleet: list[Run], width: int, how_many: int) -> None:
    text = printed(fleet[:how_many], width)
    assert max(map(len, text.splitlines())) <= width
    for run in fleet[:how_many]:
        assert run.summary.hardware in text


def test_piped_output_is_plain(m40: Run, capsys: pytest.CaptureFixture[str]) -> None:
    print_runs([m40])
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert default_console().width == 100


def test_one_run_is_told_in_full(m40: Run) -> None:
    text = printed([m40], 100, Path("/runs/m40/report.html"))
    for words in (
        "m40 · llama-2-7b · site world", "1,951 of 2,000", "579 ms · 1.94 s · 4.94 s", "90.5 %", "80.6 %", "8.77 J",
        "223 (186–267) mg", "$0.378", "SLO: TTFT up to 2 s and TPOT up to 200 ms", "49 requests rejected",
        "report: /runs/m40/report.html",
    ):  # fmt: skip
        assert words in text, words


def test_overload_says_what_would_carry_it(overloaded: Run) -> None:
    text = " ".join(printed([overloaded], 120).split())
    assert "258 %, 3 needed" in text
    assert "Overloaded. The trace offers 258 % of what this hardware can serve" in text


def test_the_best_is_marked_among_those_that_meet_the_slo(fleet: list[Run], swamped: Run) -> None:
    text = printed([*fleet, swamped], 120)
    table = text.partition("* the best")[0]
    lines = {line.split()[0]: line for line in table.splitlines() if line.startswith(("h100", "a100", "4xm40", "gtx"))}
    assert "*28.6 ms" in lines["h100-sxm"]
    assert "*7.45 J" in lines["a100-80"]
    assert "*" not in lines["gtx1080"]
    assert "gtx1080 (overloaded, 125 % of its capacity) does not" in " ".join(text.split())


def test_another_load_is_another_question(fleet: list[Run], overloaded: Run) -> None:
    text = " ".join(printed([*fleet, overloaded], 120).split())
    assert "Runs that were not asked the same are not ranked together: " in text
    assert "(m40 · Q2)" in text
    assert text.count("* the best, or within 1 % of it") == 1


def test_what_nobody_knows_is_left_out(empty: Run) -> None:
    text = printed([empty], 80)
    assert "Nothing finished." in text
    assert "CO2e" not in text
    assert "None" not in text
