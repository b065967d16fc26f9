"""Integers and floats as bytes, without Keras; for both halves."""
