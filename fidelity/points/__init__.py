"""Published points: the table, what each row means as a run, and the run."""
