"""Exact answers about a TabularMDP: optima, KL-regularized optima, returns and KL of any policy; numpy only."""
