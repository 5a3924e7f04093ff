"""The planner: what a training step on a cluster would cost in time and memory, and which layout is best.

`models` knows sizes and operations, `devices` what hardware gives, `layers` the time of one layer, `memory` what a
device holds, `cost` a whole step, `search` the layouts that fit, ranked; `tables` holds published measurements with
their sources, `speeds` splits a pipeline over uneven devices. Pure Python; every time is a prediction.
"""
