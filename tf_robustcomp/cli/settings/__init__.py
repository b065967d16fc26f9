"""Groups of settings that commands share."""
