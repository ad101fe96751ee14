"""Cards and places under the names that people use."""

import pytest

from afterwatt.hwprofiles.catalogue import ALIASES, device_names, load_device, load_site, site_names
from afterwatt.hwprofiles.deployment import parse_deployment
from afterwatt.hwprofiles.errors import HardwareError


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("H100", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("A100-80GB", "a100-80"),
        ("Tesla T4", "t4"),
        ("M40", "m40-24"),
    ],
)
def test_a_card_is_found_as_it_is_printed(said, meant):
    assert load_device(said).key == meant


@pytest.mark.parametrize("name", [*device_names(), *ALIASES])
def test_every_name_of_a_card_means_the_same_in_capitals(name):
    assert load_device(name.upper()) is load_device(name)


@pytest.mark.parametrize(
    ("said", "several"), [("a100", ("a100-40", "a100-80")), ("V100", ("v100-pcie-16", "v100-sxm-32"))]
)
def test_a_name_of_several_cards_asks_which(said, several):
    with pytest.raises(HardwareError, match="did you mean") as caught:
        load_device(said)
    assert all(repr(name) in str(caught.value).partition("known:")[0] for name in several)


def test_a_deployment_is_called_by_keys():
    assert parse_deployment("2xA100-80:tp2").name == "2xa100-80:tp2"
    assert parse_deployment("2xm40:pp2").name == "2xm40:pp2"
    assert parse_deployment("RTX 4090").name == "rtx4090"


@pytest.mark.parametrize(
    ("said", "meant"), [("uk", "gb"), ("UK", "gb"), ("DE", "de"), ("Germany", "de"), ("usa", "us")]
)
def test_a_place_is_found_by_its_usual_names(said, meant):
    assert load_site(said).key == meant


def test_every_place_is_found_by_its_own_name():
    names = [load_site(key).name for key in site_names()]
    for key, name in zip(site_names(), names, strict=True):
        if names.count(name) == 1:
            assert load_site(name).key == key or name.casefold() in site_names()
