"""The commands: a thin skin over the packages. Parse, build a configuration, call, write.

`main.py` holds the two scripts (`afterwatt` and `simulate`) and turns errors into exit codes; each command is a module
of its own and a plain function too (`cli.study.run_study(Settings(hw=("m40",)))`). Nothing heavy is imported before a
command runs, so `--help` answers at once. Nothing here knows how a simulation works: `study.py` hands configurations to
`sim.run.simulate` and run directories to `reports`.
"""
