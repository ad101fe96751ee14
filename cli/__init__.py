"""The commands: a thin skin over the packages. Words in, a call, words out.

`main.py` holds the scripts (`afterwatt`, `simulate` and `validate`) and turns errors into exit codes; each command is a
module of its own. Nothing heavy is imported before a command runs, so `--help` answers at once. Nothing here knows how
a simulation works or what a study is made of: `studies` does the work, and what is printed comes from its results.
"""
