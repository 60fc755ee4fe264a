"""Q-learning and its relatives, by hand: one algorithm text, driven by Python or compiled. Needs numba."""
