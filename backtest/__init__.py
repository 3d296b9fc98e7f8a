"""Floor 5: walk-forward simulation, metrics, tear sheet."""
