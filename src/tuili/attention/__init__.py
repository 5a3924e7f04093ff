"""Dynamic sparse attention: gate, selection, kernels, and what is cached between steps.

Letters in shapes: B batch, H query heads, G key-value groups, R = H / G heads a group, T queries (the last T of
the N keys), N keys, d head dim, b block, K kept blocks per token and group, e gate width, s sub-block (keys per
gate key, divides b), Q gate queries a group, J blocks.
"""
