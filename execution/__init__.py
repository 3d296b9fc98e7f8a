"""Floor 4: targets, planning, risk, broker, journal."""
