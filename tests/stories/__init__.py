"""Whole jobs, looked at from outside."""
