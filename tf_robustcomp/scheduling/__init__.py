"""Run many tasks: each when what it needs is there, on this machine or on a cluster."""
