"""Floor 0: bars, calendar, horizons, sources, lake, ledger, synthetic market."""
