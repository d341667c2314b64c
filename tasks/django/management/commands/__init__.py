"""Each module is a command, and has the command's name."""
