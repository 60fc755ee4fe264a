"""Models that learn by backpropagation, each held against its exact optimum; the linear ones by hand, numpy only."""
