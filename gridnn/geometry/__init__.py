"""Where things are: integers only."""
