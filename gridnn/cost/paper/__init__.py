"""The cost models of papers: Gholami et al. 2018 as printed and as its figures used it, Jia et al. 2018's traffic."""
