"""Evaluation: compressors in and out of the distribution they were trained on."""
