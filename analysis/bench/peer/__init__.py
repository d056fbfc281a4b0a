"""What the other Python runs: the workers of PyTorch, and the protocol and data that both sides share.

Nothing here imports gridnn, and nothing of gridnn imports torch: each side has its own interpreter.
"""
