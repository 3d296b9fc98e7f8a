"""What Dagster loads: the definitions of the installation that the settings describe."""

from pipelines.definitions import build_definitions
from pipelines.event_log import silence_beta
from pipelines.settings import load_settings

silence_beta()
defs = build_definitions(load_settings())
