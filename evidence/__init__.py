"""What the models are worth, measured: `make evidence` makes docs/evidence.md and its pictures."""
