"""What runs: one thin file per subcommand of ``tokenwalk``."""
