"""An environment that a person named, as a problem: its tables, its rewards, its optimum and reference."""
