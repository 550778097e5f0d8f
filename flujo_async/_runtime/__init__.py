"""What makes definitions run: one execution mechanism over a journal."""
