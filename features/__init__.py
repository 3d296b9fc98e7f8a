"""Floor 1: features, labels, regimes. Frames in, frames out."""
