"""Side by side with peers or physical limits, in one run, after checking that values agree."""
