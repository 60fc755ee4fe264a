"""What ``import tokenwalk`` offers: the commands as functions, for ids, environments, tables and runs alike."""
