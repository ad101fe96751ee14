#!/usr/bin/env bash
# Everything that is claimed about a GPU, measured on the one at hand: one JSON, under 8 minutes, nothing from the network.
#   benchmarks/gpu.sh [--device cuda:0|cpu] [--out FILE.json]      PYTHON=/path/to/python to choose the interpreter
# Then: python benchmarks/gpu.py --page FILE.json > FILE.md
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" benchmarks/gpu.py "$@"
