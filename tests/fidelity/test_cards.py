"""Names of cards as drivers report them: the catalogue's own, and no guess at another card."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.fidelity.cards import recognise
from afterwatt.hwprofiles.catalogue import device_names, load_device
from afterwatt.hwprofiles.errors import HardwareError


@pytest.mark.parametrize("key", device_names())
def test_every_card_of_the_catalogue_is_known_by_its_own_name(key: str):
    assert recognise(load_device(key).name.partition("(")[0]).device.key == key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100-80-pcie"),
        ("A100 40GB SXM", "a100-40"),
        ("Tesla T4", "t4"),
        ("T4 16GB (208GB DRAM, 1.5TB SSD, GCP)", "t4"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("B200 192GB", "b200"),
        ("GeForce RTX2080Ti", "rtx2080ti"),
        ("Tesla V100-SXM2-32GB", "v100-sxm-32"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000-ada"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
    ],
)
def test_cards_as_drivers_report_them(text: str, key: str):
    assert recognise(text).device.key == key


@pytest.mark.parametrize(
    "text",
    ["RTX 4090 Laptop", "RTX 3090 Ti Super", "A100 48GB", "MI355X", "Apple M1 Max CPU", "GH200", "x", "80GB", ""],
)
def test_another_card_is_not_taken_for_a_known_one(text: str):
    with pytest.raises(HardwareError, match="catalogue"):
        recognise(text)


def test_a_choice_among_cards_is_marked():
    assert recognise("A100 (size not stated)").assumed == ("card: taken as A100 SXM4 80GB",)
    assert recognise("A100 PCIe 80GB").assumed == ()


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40))
def test_any_text_is_a_card_or_refused(text: str):
    try:
        found = recognise(text).device.key
    except HardwareError:
        return
    assert found in device_names()
