# Floor 5: what the commands share.
"""One file a command: arguments in, one summary out."""
