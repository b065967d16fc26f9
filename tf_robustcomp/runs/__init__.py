"""Run directories: settings, checkpoints, metrics, and the training loop that fills them."""
