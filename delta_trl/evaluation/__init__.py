"""Evaluation: benchmarks, sampling, per-sample records, statistics, tables. See `scripts/evaluate.py`."""
