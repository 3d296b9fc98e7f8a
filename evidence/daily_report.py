"""The chapter on real daily bars."""
