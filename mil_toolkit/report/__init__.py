"""The report of a study: what is read, what is drawn, the page."""
