"""Results: the meaning of stored records, and their upkeep."""
