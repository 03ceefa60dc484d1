"""Who the patients are: the declared table, their metadata and their image files."""
