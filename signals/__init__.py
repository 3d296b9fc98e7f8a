"""Floor 3: regime weights and the signals table."""
