"""Tests of gridnn.network."""
