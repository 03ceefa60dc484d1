"""External validation of a bundle: its scores on another cohort, what is refitted there, and the page."""
