"""Studies: lists of runs that depend on each other, performed, resumed and reported as one."""
