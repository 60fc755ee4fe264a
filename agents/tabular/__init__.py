"""Tabular agents: Q-learning (read ``textbook`` first) and its variants, in Python or compiled. Needs numba."""
