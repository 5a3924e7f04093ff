"""What a search can act in."""
