"""This project's own environments."""
