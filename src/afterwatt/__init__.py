"""Afterwatt: what would these GPUs, old or new, carry; and what do users feel, the hardware do, and the planet pay?

The packages below (`afterwatt.sim`, `afterwatt.hwprofiles`, ...) lie at the top level of the repository; a wheel maps
them to here, and in a checkout links do.
"""

from pathlib import Path

from afterwatt import compiled as compiled  # before any module that it finds

if not Path(__file__).with_name("sim").is_dir() and (_ROOT := Path(__file__).resolve().parents[2] / "sim").is_dir():
    __path__.append(str(_ROOT.parent))  # a checkout on a file system without links
