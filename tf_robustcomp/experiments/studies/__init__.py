"""The two published studies, as lists of tasks."""
