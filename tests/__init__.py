"""The tests of gridnn: one folder a room, and house/, stories/, support/."""
