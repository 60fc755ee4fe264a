"""An agent of this project's own."""


class Oscillator:
    """Plays 0 and 1 in turn: switches the lamp every other step, and walks the counter to and fro."""

    def __init__(self) -> None:
        self.time = -1

    def act(self) -> int:
        """Return the next action."""
        self.time += 1
        return self.time % 2
