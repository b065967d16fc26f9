"""Data: records, image sources, random labels, batches."""
