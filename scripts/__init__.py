"""The subcommands of ``tokenwalk``: one thin file each."""
