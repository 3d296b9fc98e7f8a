"""Floor 6: Dagster assets, jobs, schedules; settings."""
