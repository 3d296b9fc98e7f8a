"""Floor 2: families, splits, walk-forward, tracking."""
