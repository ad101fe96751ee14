"""What iterations take that energy follows from: bytes, FLOPs, and seconds in kinds of kernels; sums over their terms.

Some kinds draw more than their bytes and FLOPs tell (see `hwprofiles.power.Anchors`): attention, grouped products of
experts, and scaling weights back. Their seconds follow from the very rates that `hwprofiles.roofline` times kernels
with, latencies and waiting apart.
"""

from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.mixers import Bounded, StepShape
from afterwatt.hwprofiles.operations import ATTENTION, EXPERTS, MATRICES, NONE, Term
from afterwatt.hwprofiles.rates import Rates
from afterwatt.hwprofiles.step import StepModel

Floats = NDArray[np.float64]


class Work(NamedTuple):
    """What iteration k = 0, 1, ... of plans takes on all GPUs of a replica: first + slope * k; arrays over plans."""

    hbm_bytes: Floats
    hbm_slope_bytes: Floats
    flops: Floats
    flops_slope: Floats
    link_bytes: Floats


class Occupancy(NamedTuple):
    """GPU-seconds of iteration k = 0, 1, ... of plans, summed over a replica: first + slope * k; arrays over plans.

    Attributes:
        attention_s, attention_slope_s: attention kernels.
        expert_s: grouped products of experts.
        unpack_s: scaling weights back.
    """

    attention_s: Floats
    attention_slope_s: Floats
    expert_s: Floats
    unpack_s: Floats


def work(step: StepModel, shape: StepShape, bounded: Bounded | None = None) -> Work:
    """Return bytes moved to and from HBM, FLOPs and bytes over the GPU links, summed over a replica's GPUs.

    Args:
        step: what runs.
        shape: of the plans.
        bounded: as in `StepModel.terms`.
    """
    hbm, hbm_slope, flops, flops_slope, link = (np.zeros_like(shape.decoding) for _ in Work._fields)
    for times, group in groupby(step.terms(shape, bounded), attrgetter("times")):  # a layer's terms, then all layers
        terms = list(group)
        hbm = hbm + times * sum(_bytes(term) * term.elements.units for term in terms)
        hbm_slope = hbm_slope + times * sum(_bytes(term) * term.elements.growth for term in terms)
        flops = flops + times * sum(term.flops.each * term.flops.units for term in terms)
        flops_slope = flops_slope + times * sum(term.flops.each * term.flops.growth for term in terms)
        link = link + times * sum(term.link_bytes.each * term.link_bytes.units for term in terms)
    return Work(hbm, hbm_slope, flops, flops_slope, link)


def _bytes(term: Term) -> float:
    return term.elements.each * term.element_bytes


def occupancy(step: StepModel, shape: StepShape, bounded: Bounded | None = None) -> Occupancy:
    """Return the seconds that plans keep GPUs in attention, in experts and in scaling weights back.

    Args:
        step: what runs.
        shape: of the plans.
        bounded: as in `StepModel.terms`.
    """
    rates, terms = step.rates, step.terms(shape, bounded)
    zero = np.zeros_like(shape.decoding)
    attention, slope = _attention_s((term for term in terms if term.kind == ATTENTION), rates)
    unpacked = sum((_elements(term) for term in terms if term.kind in (MATRICES, EXPERTS)), zero)
    expert = sum((_expert_s(term, rates) for term in terms if term.kind == EXPERTS), zero)
    return Occupancy(attention, slope, expert, unpacked * rates.matrices.dequant_s)


def _elements(term: Term) -> Floats:
    elements: Floats = term.times * term.elements.each * term.elements.units
    return elements


def _attention_s(terms: Iterable[Term], rates: Rates) -> tuple[Floats, Floats]:
    """Return reading and multiplying, one after the other, and their growth."""
    first = slope = NONE
    for term in terms:
        entry_s = term.times * _bytes(term) / rates.attention.bytes_per_s
        pair_s = term.times * term.flops.each / rates.attention.flops_per_s
        first = first + entry_s * term.elements.units + pair_s * term.flops.units
        slope = slope + entry_s * term.elements.growth + pair_s * term.flops.growth
    return first, slope


def _expert_s(term: Term, rates: Rates) -> Floats:
    """Return the longer of traffic and arithmetic."""
    memory_s = _elements(term) * term.element_bytes / rates.experts.bytes_per_s
    flops = term.times * term.flops.each * term.flops.units
    seconds: Floats = np.maximum(memory_s, flops / rates.experts.flops_per_s)
    return seconds
