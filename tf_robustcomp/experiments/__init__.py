"""Build, train and evaluate what the commands name."""
