"""What the project measures of itself: studies, claims and peers. Not in the wheel."""
