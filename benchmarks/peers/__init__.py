"""What runs in, or is made with, the peers' own environment."""
