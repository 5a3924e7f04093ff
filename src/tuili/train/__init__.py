"""Training from the data on disk to a model that can be loaded: on one process or on many."""
