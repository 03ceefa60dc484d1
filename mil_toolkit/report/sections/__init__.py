"""The sections of the page: what each shows, ready for the template."""
