"""The parts of the benchmarks of reasoning."""
