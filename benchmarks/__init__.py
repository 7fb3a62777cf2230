"""How fast it is, as ratios to what one can write by hand and to another engine: `python -m benchmarks --help`."""
