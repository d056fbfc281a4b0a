"""What is computed: layer kinds, graphs, and what a grid cuts of them."""
