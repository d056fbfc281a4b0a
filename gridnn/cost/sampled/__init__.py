"""Exact traffic of some ranks of many, without going through all of them."""
