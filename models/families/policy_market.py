"""The market as a policy meets it: hold short, nothing or long, one horizon at a time.

An episode follows one symbol. Each step is one horizon long, so that no return is paid twice; its
reward is what the position earned after what the change of position cost.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from models.spec import Indices, Labelled, Matrix

ACTIONS = 3
"""Short, nothing, long."""

LIMIT = 4.0
"""What is seen lies between minus and plus this."""


class HoldingsEnv(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """Positions in one symbol after another.

    Parameters
    ----------
    observations : (n, k) float32
        What is seen at each labelled row, scaled and clipped to :data:`LIMIT`.
    train : Labelled
        Its rows, in the same order. ``y`` is what a long position earns over the next horizon, in
        units of its volatility; ``band`` is what a round trip costs in the same units.
    follow : (n,) int64
        The place one horizon later, or -1 where there is none; from :func:`follow_rows`.
    periods : int
        Longest episode.

    Notes
    -----
    The observation is the row's features and the position held so far. The reward of an action
    ``a`` in {-1, 0, 1} after position ``b`` is ``a * y - |a - b| * band / 2``, times the row's
    weight.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self, observations: Matrix, train: Labelled, follow: Indices, *, periods: int
    ) -> None:
        self._seen = observations
        self._y = train.y
        self._cost = train.band / 2.0
        self._weight = train.weight
        self._follow = follow
        self._periods = periods
        size = observations.shape[1] + 1
        self.observation_space = gymnasium.spaces.Box(-LIMIT, LIMIT, (size,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(ACTIONS)
        self._at = 0
        self._held = 0
        self._left = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Begin at a row drawn at random, with no position."""
        super().reset(seed=seed)
        self._at = int(self.np_random.integers(len(self._y)))
        self._held, self._left = 0, self._periods
        return self._observe(), {}

    def step(
        self, action: np.int64 | int
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Hold a position for one horizon."""
        wanted = int(action) - 1
        earned = wanted * self._y[self._at] - abs(wanted - self._held) * self._cost[self._at]
        reward = float(earned * self._weight[self._at])
        later = int(self._follow[self._at])
        self._held, self._left = wanted, self._left - 1
        ended = later < 0
        if not ended:
            self._at = later
        return self._observe(), reward, ended, self._left <= 0 and not ended, {}

    def _observe(self) -> npt.NDArray[np.float32]:
        return np.append(self._seen[self._at], np.float32(self._held))


def follow_rows(train: Labelled) -> Indices:
    """Return, for each labelled row, the place of the symbol's row one horizon later.

    Parameters
    ----------
    train : Labelled
        Rows in order of time.

    Returns
    -------
    (n,) int64
        Places among the labelled rows; -1 where that row is not there, or has no label.
    """
    sample, lines = train.sample, train.sample.lines
    if lines is None:
        return np.full(len(sample), -1)
    place = lines.place[sample.rows] + train.steps
    inside = place < len(lines.order)
    later = lines.order[np.where(inside, place, 0)]
    inside &= lines.first[later] == lines.first[sample.rows]
    at = np.searchsorted(sample.rows, later)
    at = np.minimum(at, len(sample.rows) - 1)
    return np.where(inside & (sample.rows[at] == later), at, -1)
