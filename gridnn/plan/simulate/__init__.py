"""What a step would look like on the clock: tasks on ranks and links, simulated in whole or from a change on."""
