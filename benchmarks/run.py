"""`make bench`: every benchmark, printed as ratios."""

from benchmarks import flat_files, ingest_again, ingest_rest, lake_reads, simulate_backtest


def main() -> None:
    """Run all of them."""
    for benchmark in (flat_files, ingest_rest, ingest_again, lake_reads, simulate_backtest):
        print(f"\n{benchmark.__doc__.splitlines()[0]}")
        for line in benchmark.measure():
            print("  " + line)


if __name__ == "__main__":
    main()
