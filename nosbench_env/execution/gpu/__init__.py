"""Programs on a GPU."""
