"""Benchmarks on real data: what finetuning towards a metric gains on untouched test rows."""
