"""Which choice is best, and the file that says it."""
