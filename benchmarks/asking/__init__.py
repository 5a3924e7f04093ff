"""The parts of `benchmarks/ask.py`."""
