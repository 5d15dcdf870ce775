"""Identity: the decision which programs are equivalent and share a result."""
