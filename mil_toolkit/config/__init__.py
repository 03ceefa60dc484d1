"""The configurations. Command-line options, `--set` names and search spaces derive from their fields."""
