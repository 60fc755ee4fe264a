"""``tokenwalk audit``: the optimum of a reward and the bias of a gradient, exact or by search."""
