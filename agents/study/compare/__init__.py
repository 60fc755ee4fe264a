"""``tokenwalk compare``: agents times rewards times seeds."""
