"""Tools: the plan of a run, the inspection of data, the comparison of solvers, reports and the quickstart."""
