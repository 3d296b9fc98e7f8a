"""How old an asset may be before Dagster shows it as overdue.

Windows are counted from the last materialisation, and span the longest ordinary gap of the
exchange: from the close before a long weekend to the close after it, four days.
"""

import datetime as dt
import warnings

import dagster as dg


def _window(fail: dt.timedelta, warn: dt.timedelta) -> dg.FreshnessPolicy:
    with warnings.catch_warnings():
        # Freshness policies are marked as not final in Dagster 1.13.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.FreshnessPolicy.time_window(fail_window=fail, warn_window=warn)


EVERY_SESSION = _window(dt.timedelta(days=5), dt.timedelta(days=4, hours=6))
"""Of what each trading day makes."""

EVERY_WEEK = _window(dt.timedelta(days=15), dt.timedelta(days=8))
"""Of what a Saturday makes; one may be missed."""

EVERY_MONTH = _window(dt.timedelta(days=66), dt.timedelta(days=38))
"""Of models: the slowest groups are trained on a month's first Saturday."""
