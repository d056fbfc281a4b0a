"""Layers on their grids: forward and backward over the blocks of a rank, in algebra."""
