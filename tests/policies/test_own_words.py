"""Policies with words of their own, and such as ask what things cost: named on the command line like any other."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from afterwatt.cli import complete, main
from afterwatt.policies.batching import BATCHING, ChunkedPrefill
from afterwatt.policies.config import PolicySet, own_words, parse_policies, policy_words
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.making import UnknownCosts
from afterwatt.policies.routing import ROUTING, LeastOutstanding
from afterwatt.policies.views import BatchDecision, BatchLimits
from afterwatt.sim.costs import PhysicalCosts
from afterwatt.sim.run import memory_of, meter_of
from afterwatt.sim.workload import StaticBatch
from tests.helpers import PS_PER_S, Requests, make_config, run_body


class Patient(ChunkedPrefill):
    """Lets each request wait for `patience=2s` in the hope of company, then admits all that wait."""

    words = ("patience",)

    def __init__(self, words, costs):
        said = words.get("patience", "1s")
        try:
            self.patience_s = float(said.removesuffix("s"))
        except ValueError:
            raise PolicyError(f"patience={said!r} is not a number of seconds; write for example patience=2s") from None
        self.came_s: dict[int, float] = {}

    def select(self, view):
        head = next(view.queue, None)
        if head is not None:
            until_s = self.came_s.setdefault(head.seq_id, view.now_s) + self.patience_s
            if view.now_s < until_s:
                return BatchDecision(decode=view.decoding > 0, ask_at_s=until_s)
            view.queue = iter([head, *view.queue])
        return super().select(view)


class Paced(ChunkedPrefill):
    """Decodes no more sequences together than an iteration of `pace=` seconds has room for."""

    words = ("pace",)

    def __init__(self, words, costs):
        pace_s = float(words.get("pace", "1"))
        self.most = 1
        while self.most < 64 and costs.step_s(0, self.most + 1, (self.most + 1) * 100) <= pace_s:
            self.most += 1

    def select(self, view):
        view.limits = BatchLimits(min(self.most, view.limits.max_seqs), view.limits.token_budget)
        return super().select(view)


class Greenest(LeastOutstanding):
    """Has no words, and asks for costs."""

    words = ()

    def __init__(self, words, costs):
        assert words == {}
        self.w = [costs.j_per_s(replica, busy=True) for replica in range(2)]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BATCHING, "patient", Patient)
    monkeypatch.setitem(BATCHING, "paced", Paced)
    monkeypatch.setitem(ROUTING, "greenest", Greenest)


def test_a_command_line_runs_a_policy_with_a_word_of_its_own(tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = "--hw m40 --batch 3 --prompt 50 --output 4 --no-report --no-bounds --policy patient+patience=2.5s+seqs=2"
    assert main.run(main.simulate_app(), [*words.split(), "--out", "run"]) == 0
    (table,) = (pq.read_table(path) for path in (tmp_path / "run").rglob("requests.parquet"))
    assert table["scheduled_s"].to_pylist()[:2] == [2.5, 2.5]
    assert table["status"].to_pylist() == ["finished"] * 3
    said = (tmp_path / "run" / "manifest.json").read_text()
    assert "patient+seqs=2+patience=2.5s" in said
    assert main.run(main.simulate_app(), [*words.replace("2.5s", "long").split(), "--out", "other"]) == 2
    assert "patience='long' is not a number of seconds" in capfd.readouterr().err


def test_a_word_waits_as_long_as_it_says():
    requests = Requests([0, PS_PER_S, 3 * PS_PER_S], [30, 20, 10], [5, 9, 2])
    outcome = run_body(requests, policy="patient+patience=2s")
    assert [ticket.scheduled_ps for ticket in outcome.tickets[:2]] == [2 * PS_PER_S] * 2
    assert outcome.tickets[2].scheduled_ps == 5 * PS_PER_S


def test_a_policy_that_asks_for_costs_keeps_to_them():
    together = Requests([0] * 12, [100] * 12, [30] * 12)
    config = make_config(StaticBatch(1, 100, 30))
    costs = PhysicalCosts(config, memory_of(config))
    pace_s = costs.step_s(0, 4, 400)
    outcome = run_body(together, policy=f"paced+pace={pace_s!r}")
    assert max(entry.decoding for entry in outcome.log) == 4
    assert max(entry.decoding for entry in run_body(together, policy="paced+pace=0").log) == 1
    assert max(entry.decoding for entry in run_body(together, policy="paced+pace=99").log) == 12


def test_a_policy_without_words_may_ask_for_costs_too():
    assert PolicySet(routing="greenest").make_routing(PhysicalCosts(*config_and_memory("2xm40"))).w[0] > 100.0


def config_and_memory(hw: str = "m40", **options):
    config = make_config(StaticBatch(1, 100, 30), hw, **options)
    return config, memory_of(config)


@pytest.mark.parametrize("hw", ["m40", "2xm40:pp2"])
def test_costs_are_those_of_the_body(hw: str):
    """What a step takes, what a block's way takes, and what the meter writes down at rest."""
    config, memory = config_and_memory(hw)
    costs = PhysicalCosts(config, memory)
    outcome = run_body(StaticBatch(4, 100, 2), hw)
    entry = outcome.log[-1]
    (ticket, *_) = outcome.tickets
    if hw == "m40":
        took_s = (ticket.finish_ps - ticket.first_ps) / PS_PER_S
        assert costs.step_s(0, entry.decoding, entry.context_tokens) == pytest.approx(took_s, rel=1e-9)
    else:
        one, two = (costs.step_s(0, 1, context) for context in (100, 100))
        assert one == two < costs.step_s(0, 8, 800)
    link = config.serving.host_link
    once, twice = costs.move_s(1, "hbm", "dram"), costs.move_s(2, "dram", "hbm")
    assert twice - once == pytest.approx(memory.block_bytes / float(link.effective_bytes_per_s))
    assert once - (twice - once) == pytest.approx(float(link.latency_s))
    with pytest.raises(PolicyError, match="moves from hbm to ssd; ask for moves between hbm and dram"):
        costs.move_s(1, "hbm", "ssd")
    meter = meter_of(config, memory)
    assert costs.j_per_s(0, busy=False) == pytest.approx(meter.replica.idle_site_w)
    assert costs.j_per_s(0, busy=True) > costs.j_per_s(0, busy=False)
    annual = float(config.site.intensity_gco2e_per_kwh("lifecycle"))
    assert costs.gco2e_per_j(0, 5.0) == pytest.approx(annual / 3.6e6)


def test_a_body_that_knows_no_costs_says_so():
    costs = UnknownCosts()
    for ask in (
        lambda: costs.step_s(0, 4, 400),
        lambda: costs.move_s(1, "hbm", "dram"),
        lambda: costs.j_per_s(0, True),
        lambda: costs.gco2e_per_j(0, 1.0),
    ):
        with pytest.raises(PolicyError, match="which this body does not know; choose one that asks for no costs"):
            ask()


# -- words -------------------------------------------------------------------------------------------------------------


def test_own_words_are_read_back_and_belong_to_their_policy():
    policies = parse_policies("patience=3s+patient+budget=512")
    assert policies.own == (("patience", "3s"),)
    assert policies.name == "patient+budget=512+patience=3s"
    assert parse_policies(policies.name) == policies == PolicySet(**policies.record())
    assert "own" not in PolicySet().record()
    assert own_words(("patient", "greenest")) == ["patience"]
    known = "known: budget, seqs, block, kv, queue, watermark, utilisation, patience"
    with pytest.raises(PolicyError, match=f"unknown policy option 'hope'.*{known}"):
        parse_policies("patient+hope=1")
    with pytest.raises(PolicyError, match="unknown policy option 'patience'"):
        parse_policies("chunked+patience=1s")
    with pytest.raises(PolicyError, match=r"says patience twice \(1 and 2\); keep one"):
        parse_policies("patient+patience=1+patience=2")


def test_every_word_that_is_read_is_completed():
    with pytest.raises(PolicyError) as caught:
        parse_policies("?")
    listed = str(caught.value).partition("known: ")[2].split(", ")
    assert [word.removesuffix("N") for word in listed] == policy_words() == complete.policy("")
    for word in policy_words():
        value = {"utilisation=": "0.7", "split=": "20/50", "experts=": "cpu"}.get(word, "7")
        typed = {"m2cache": "m2cache+density=10"}.get(word, word)
        assert parse_policies(f"{word}{value}" if word.endswith("=") else typed)
        assert complete.policy(word[:-1])[0].startswith(word[:-1])
    assert {"kv=", "watermark=", "queue="} <= set(complete.policy(""))
    assert complete.policy("patient+pat") == ["patient+patience="]
    assert complete.policy("pat") == ["patient"]
    assert "budget=512+budget=" not in complete.policy("budget=512+")
    assert complete.policy("swap+kv=5+wat") == ["swap+kv=5+watermark="]


def test_words_and_the_list_of_the_command_agree():
    from afterwatt.cli.policy import policies

    listed = (word.partition("+")[0].partition("=") for _, word, _, _ in policies())
    assert sorted(name + equals for name, equals, _ in listed) == sorted(policy_words())
