"""The three ways to route: what they have in common, and what each is for."""

from afterwatt.policies.routing import ROUTING, LeastOutstanding, PrefixAffinity, RoundRobin
from afterwatt.policies.views import ReplicaView, RequestView
from tests.policies.conformance import RoutePolicyConformance

REQUEST = RequestView(0, 2000, 100)


class TestRoundRobin(RoutePolicyConformance):
    make = RoundRobin

    def test_in_turn_whatever_their_state(self):
        router = RoundRobin()
        views = [ReplicaView(0, 10**6, 0), ReplicaView(1, 0, 2000), ReplicaView(2, 5, 0)]
        assert [router.route(REQUEST, views) for _ in range(5)] == [0, 1, 2, 0, 1]


class TestLeastOutstanding(RoutePolicyConformance):
    make = LeastOutstanding

    def test_the_least_loaded_and_of_equals_the_lowest_number(self):
        views = [ReplicaView(2, 7, 0), ReplicaView(1, 7, 0), ReplicaView(0, 8, 512)]
        assert LeastOutstanding().route(REQUEST, views) == 1


class TestPrefixAffinity(RoutePolicyConformance):
    make = PrefixAffinity

    def test_a_hit_is_worth_the_tokens_that_it_saves(self):
        hot, idle = ReplicaView(0, 1500, 1536), ReplicaView(1, 0, 0)
        assert PrefixAffinity().route(REQUEST, [hot, idle]) == 0
        assert PrefixAffinity().route(REQUEST, [hot._replace(outstanding_tokens=1537), idle]) == 1

    def test_without_hits_it_is_the_least_loaded(self):
        views = [ReplicaView(0, 9, 0), ReplicaView(1, 8, 0)]
        assert PrefixAffinity().route(REQUEST, views) == LeastOutstanding().route(REQUEST, views) == 1


def test_every_policy_of_the_catalogue_has_its_class_here():
    assert set(ROUTING.values()) == {TestRoundRobin.make, TestLeastOutstanding.make, TestPrefixAffinity.make}
