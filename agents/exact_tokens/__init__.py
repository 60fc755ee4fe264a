"""Exact answers on token tasks: over the product of machines, the prefix tree, or listed completions."""
