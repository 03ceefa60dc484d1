"""One file a command: arguments in, one summary out."""
