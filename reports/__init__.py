"""Floor 5: what a desk reads: pure, from frames and values to HTML and Markdown."""
