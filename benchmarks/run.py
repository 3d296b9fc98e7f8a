"""`make bench`: every benchmark, printed as ratios, each in a process of its own.

`make bench-peers` runs the one whose peer needs an environment of its own.
"""

import subprocess
import sys

BENCHMARKS = (
    "flat_files",
    "ingest_rest",
    "ingest_again",
    "lake_reads",
    "ledger_reads",
    "simulate_backtest",
    "technical_vs_pandas_ta",
    "feature_scaling",
    "leak_audit",
    "dataset_assembly",
    "neural_training",
    "tree_training",
    "training_memory",
    "scoring",
    "execution",
    "premarket_run",
)


def main() -> None:
    """Run all of them, one after the other."""
    for name in BENCHMARKS:
        print(f"\nbenchmarks/{name}.py", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
