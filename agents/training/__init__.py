"""``tokenwalk train``: from a request to a run folder."""
