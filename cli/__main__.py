"""`python -m afterwatt.cli`: the same as `afterwatt`."""

from afterwatt.cli.main import main

main()
