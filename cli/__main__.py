"""`python -m cli`: the same as `afterwatt`."""

from cli.main import main

main()
