"""The Dagster assets, one file per group."""
