"""The studies, the claims and the peers of the project. Not in the wheel."""
