"""What Dagster loads: the definitions of the installation that the settings describe."""

from pipelines.definitions import build_definitions
from pipelines.settings import load_settings

defs = build_definitions(load_settings())
