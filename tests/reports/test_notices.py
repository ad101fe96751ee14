"""What a reader is told of a run before its figures."""

import pytest

from afterwatt.reports.notices import notices
from afterwatt.reports.rundir import Run
from afterwatt.reports.schema import FactRow


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ([("m40-24: price_used_usd", "assumed"), ("ddr3-2u: price_usd", "assumed")], "of cards and of servers is"),
        ([("m40-24: price_used_usd", "measured"), ("ddr3-2u: price_usd", "assumed")], "of servers is"),
        ([("m40-24: price_new_usd", "assumed"), ("ddr3-2u: price_usd", "stated")], "of cards is"),
        ([("m40-24: price_used_usd", "measured"), ("m40-24: idle_w", "assumed")], None),
    ],
)
def test_a_price_that_is_a_guess_is_called_one(m40: Run, facts: list[tuple[str, str]], told: str | None) -> None:
    rows = [FactRow(field=field, value=1.0, kind=kind) for field, kind in facts]
    manifest = m40.manifest.model_copy(update={"facts": rows})
    said = [notice.text for notice in notices(m40.summary, manifest) if "price" in notice.text]
    assert len(said) == (told is not None)
    assert all(f"the price {told} an assumption without a source" in text for text in said)


def test_where_no_cost_is_told_no_price_is_spoken_of(m40: Run) -> None:
    rows = [FactRow(field="m40-24: price_used_usd", value=1.0, kind="assumed")]
    manifest = m40.manifest.model_copy(update={"facts": rows})
    summary = m40.summary.model_copy(update={"cost_usd": m40.summary.cost_usd.model_copy(update={"hardware": None})})
    assert not [notice for notice in notices(summary, manifest) if "price" in notice.text]
