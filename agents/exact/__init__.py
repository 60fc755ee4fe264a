"""Exact answers about a TabularMDP: optima, KL-regularised optima, the figures of any policy; numpy only."""
