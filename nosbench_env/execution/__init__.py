"""Execution: programs run as optimizers."""
