"""Conversions between SI units and those people publish in; the only place where such a constant is written."""

J_PER_KWH = 3_600_000.0
S_PER_HOUR = 3_600.0
S_PER_DAY = 86_400.0
S_PER_YEAR = 365.25 * S_PER_DAY
"""A Julian year: the unit in which lifetimes are given."""
S_PER_CALENDAR_YEAR = 365.0 * S_PER_DAY
"""Length of the 8,760-hour year in which hourly grid series are published."""
BYTES_PER_GIB = 1_073_741_824.0
BITS_PER_BYTE = 8.0
