"""The model families, one file each; what the neural ones share is in neural.py and beside it."""
