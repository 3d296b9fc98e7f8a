"""Floor 7: the command line and the notebook interface."""
