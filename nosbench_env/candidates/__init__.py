"""Candidates: programs, tuned programs and library optimizers that a task can train with."""
