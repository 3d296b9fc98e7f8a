"""Floor 2: families, splits, walk-forward, tracking."""

import os

# Before MLflow is imported: it would report usage to its makers, and nothing leaves the machine
# unasked; and it would draw bars of its own where it loads a model's five small files.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
