"""Candidates besides programs: tuned programs and optimizers of libraries."""
