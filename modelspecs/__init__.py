"""Facts about models: shapes with their sources, and the parameters, bytes and FLOPs that follow from a shape.

The bottom of the house: imports none of the other packages, knows neither hardware nor time.
"""

from afterwatt.modelspecs.catalogue import load_model, model_names
from afterwatt.modelspecs.describe import DetailRow, ModelRow, describe_catalogue, describe_model
from afterwatt.modelspecs.errors import ModelError
from afterwatt.modelspecs.generic import generic_shape
from afterwatt.modelspecs.precision import COMMON_PRECISIONS, PRECISIONS, Precision, load_precision
from afterwatt.modelspecs.resolve import ResolvedModel, resolve_model
from afterwatt.modelspecs.spec import ModelSpec
from afterwatt.modelspecs.stored import Stored, stored_precision
from afterwatt.modelspecs.work import (
    causal_pairs,
    decode_flops,
    decode_intensity,
    kv_bytes_read,
    prefill_flops,
    weight_bytes_read,
)

__all__ = [
    "COMMON_PRECISIONS",
    "PRECISIONS",
    "DetailRow",
    "ModelError",
    "ModelRow",
    "ModelSpec",
    "Precision",
    "ResolvedModel",
    "Stored",
    "causal_pairs",
    "decode_flops",
    "decode_intensity",
    "describe_catalogue",
    "describe_model",
    "generic_shape",
    "kv_bytes_read",
    "load_model",
    "load_precision",
    "model_names",
    "prefill_flops",
    "resolve_model",
    "stored_precision",
    "weight_bytes_read",
]
