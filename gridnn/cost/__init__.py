"""What a choice costs: traffic, arithmetic, machines, seconds."""
