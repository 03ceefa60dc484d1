"""What is predicted: the kinds of outcome, and how each is declared, learned, scored and written."""
