"""Bounds on a network's error from the length of its code."""
