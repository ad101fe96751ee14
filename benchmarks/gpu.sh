#!/usr/bin/env bash
# Everything that is claimed about a GPU, measured on the one at hand: one folder, 7 minutes at most, no network.
#   benchmarks/gpu.sh [--device cuda:0|cpu] [--out DIR] [--plan]      PYTHON=/path/to/python to choose the interpreter
# Then copy DIR/measurement.json and DIR/page.md to docs/measurements/DEVICE-DATE.{json,md}.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-$([ -x "$here/.venv/bin/python" ] && echo "$here/.venv/bin/python" || command -v python3)}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONUNBUFFERED=1 PYTHONPATH="$here/src:$here${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m benchmarks.gpu "$@"
