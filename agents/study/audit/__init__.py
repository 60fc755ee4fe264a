"""``tokenwalk audit``: what an optimiser would make of a reward, exactly or by search."""
