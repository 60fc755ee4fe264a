"""``tokenwalk benchmark``: speed against peers, as ratios in one run."""
