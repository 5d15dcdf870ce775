"""Identity: decides which programs are equivalent and share a result."""
