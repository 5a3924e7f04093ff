"""Training on one process or many: the engine, its layouts, data, loop and checkpoints; a planner of clusters."""
