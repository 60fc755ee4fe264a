"""This project's own agents."""
