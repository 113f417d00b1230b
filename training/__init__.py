"""How a network is trained, and how that is recorded."""
