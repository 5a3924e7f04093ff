"""What the benchmarks of reasoning share."""
