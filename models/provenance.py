"""Where a training came from: the digests by which it can be told apart and made again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from market.errors import ModelError
from models.normal_scores import source_of


@dataclass(frozen=True)
class Provenance:
    """What a training read and by which code and settings.

    Attributes
    ----------
    data_hash : str
        Version of the bars.
    feature_hash : str
        From :func:`feature_hash`.
    config_hash : str
        Of the settings.
    code_version : str
        Of the package, and of the checkout where there is one.
    seed : int
        Of the models and of every resampling.
    band_bps : float
        The neutral band.
    """

    data_hash: str
    feature_hash: str
    config_hash: str
    code_version: str
    seed: int
    band_bps: float

    def tags(self) -> dict[str, str]:
        """Return the tags of a run; ``dataset_version`` is the data hash by its older name."""
        return {
            "dataset_version": self.data_hash,
            "data_hash": self.data_hash,
            "feature_hash": self.feature_hash,
            "config_hash": self.config_hash,
            "code_version": self.code_version,
        }


def feature_hash(definitions: Mapping[str, str], names: Sequence[str]) -> str:
    """Return a digest of the features that models learn from.

    Parameters
    ----------
    definitions : mapping
        What each feature is computed by; further features count for nothing.
    names : sequence of str
        Columns of the matrix. Their order counts: models depend on it. One that is made of a
        feature (:mod:`models.normal_scores`) counts by its name and that feature's definition.

    Returns
    -------
    str
        Sixteen hexadecimal digits.

    Raises
    ------
    ModelError
        When the definition of a feature is not there.

    Examples
    --------
    >>> feature_hash({"rsi_14": "a1", "unused": "b2"}, ["rsi_14"])
    '9e4dbf017c9cac15'
    """
    missing = [n for n in names if source_of(n) not in definitions]
    if missing:
        raise ModelError(
            "features without a definition cannot be told apart",
            got=missing[:5],
            allowed="a definition of every feature that models learn from",
            remedy="give the definitions of all kept features",
        )
    body = orjson.dumps([[n, definitions[source_of(n)]] for n in names])
    return hashlib.sha256(body).hexdigest()[:16]
