"""The parts of `benchmarks/port_quality.py`."""
