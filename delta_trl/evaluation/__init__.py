"""Evaluation: benchmarks, sampling, per-sample records, statistics, tables. See `python -m delta_trl.evaluation --help`."""
