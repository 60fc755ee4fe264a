"""Every agent behind one protocol, and the one registry of their names."""
