"""`make bench`: every benchmark, printed as ratios."""

from benchmarks import ingest_rest, simulate_backtest


def main() -> None:
    """Run all of them."""
    for benchmark in (ingest_rest, simulate_backtest):
        print(f"\n{benchmark.__doc__.splitlines()[0]}")
        for line in benchmark.measure():
            print("  " + line)


if __name__ == "__main__":
    main()
