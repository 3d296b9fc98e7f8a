"""What Dagster loads: the definitions of the installation that the settings describe."""

from pipelines.startup import collect_seldom

collect_seldom()  # Before everything else is loaded.

from pipelines.definitions import build_definitions  # noqa: E402
from pipelines.event_log import silence_beta  # noqa: E402
from pipelines.settings import load_settings  # noqa: E402

silence_beta()
defs = build_definitions(load_settings())
