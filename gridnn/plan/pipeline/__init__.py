"""Pipelined plans: which layers make a stage, how many ranks it has, in which order it works, what a step takes."""
