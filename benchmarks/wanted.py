"""What a benchmark is to reach: told behind each figure, and held against it in the same words."""

import sys


class Wanted:
    """The limits of one benchmark.

    Whatever is told is compared, so that no figure can fall short of the words beside it and
    pass.

    Examples
    --------
    >>> wanted = Wanted()
    >>> print(f"ratio 3.2 {wanted.at_least(3.2, 3)}")
    ratio 3.2 (at least 3)
    >>> print(f"peak 5.0 GB {wanted.at_most(5.0, 4)}")
    peak 5.0 GB (at most 4) MISSED
    >>> wanted.missed
    1
    """

    def __init__(self) -> None:
        self.missed = 0

    def at_most(self, figure: float, most: float) -> str:
        """Return the words for an upper limit, in the unit of the figure."""
        return self._told(f"(at most {most:,})", reached=figure <= most)

    def at_least(self, figure: float, least: float) -> str:
        """Return the words for a lower limit, in the unit of the figure."""
        return self._told(f"(at least {least:,})", reached=figure >= least)

    def _told(self, words: str, *, reached: bool) -> str:
        if reached:
            return words
        self.missed += 1
        return f"{words} MISSED"

    def end(self) -> None:
        """End the benchmark; with status 1 where a figure fell short."""
        if self.missed:
            sys.exit(f"{self.missed} of the figures fell short of what is wanted")
