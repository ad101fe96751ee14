"""Many runs from one description: cells, seeds, what is kept, replications, the folder that holds them.

A study is told in words (`StudyConfig`), which a TOML file, the command line and Python all make; it is crossed into
cells, each resolved into a run, and each run goes to a directory named after its content. Nothing here prints or knows
a terminal, and nothing knows how a simulation works: runs go to `sim.run`, run directories to `reports`.
"""
