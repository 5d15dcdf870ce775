"""Fused execution of programs: a program becomes a few passes over memory instead of an operation an instruction."""
