"""Helpers without Keras: errors, checks, files, settings, progress."""
