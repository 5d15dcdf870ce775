"""Oracles answer queries for the loss of a candidate."""
