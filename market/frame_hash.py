"""A digest of a frame that depends on its values alone, on any version of any library."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl

_THREADS, _WORTH_THREADS = 2, 100_000


def frame_hash(frame: pl.DataFrame) -> str:
    """Return a digest of a frame's columns, types and values, in the order given.

    Parameters
    ----------
    frame : pl.DataFrame
        Any; columns of numbers and times, and of strings in runs, are the fast ones.

    Returns
    -------
    str
        16 hexadecimal digits.

    Examples
    --------
    >>> frame_hash(pl.DataFrame({"a": [1, None]})) == frame_hash(pl.DataFrame({"a": [1, 0]}))
    False
    """
    if frame.height < _WORTH_THREADS:
        columns = map(_column_digest, frame.get_columns())
        return hashlib.sha256(b"".join(columns)).hexdigest()[:16]
    # Digests are made outside the interpreter's lock.
    with ThreadPoolExecutor(_THREADS) as pool:
        columns = pool.map(_column_digest, frame.get_columns())
        return hashlib.sha256(b"".join(columns)).hexdigest()[:16]


def _column_digest(column: pl.Series) -> bytes:
    kind = column.dtype
    digest = hashlib.sha256(f"{column.name}|{kind}|{len(column)}".encode())
    if kind == pl.String:
        runs = column.rle().struct.unnest()
        values = runs["value"]
        digest.update(_bytes(runs["len"]))
        digest.update(_bytes(values.str.len_bytes()))
        digest.update("".join(values.fill_null("")).encode())
    elif kind.is_numeric() or kind.is_temporal() or kind == pl.Boolean:
        digest.update(_bytes(column.to_physical()))
    else:
        digest.update(json.dumps(column.to_list(), default=str).encode())
    return digest.digest()


def _bytes(column: pl.Series) -> bytes | memoryview:
    """Return the values, nulls as zero, and after them where nulls were."""
    values = column.cast(pl.UInt8) if column.dtype == pl.Boolean else column
    if not column.null_count():
        return np.ascontiguousarray(values.to_numpy()).data
    nulls = np.packbits(column.is_null().to_numpy())
    return values.fill_null(0).to_numpy().tobytes() + nulls.tobytes()
