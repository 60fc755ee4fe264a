"""``tokenwalk report``: one page with pictures of what runs reached."""
