"""Command lines: settings to flags, start-up, the settings that commands share."""
