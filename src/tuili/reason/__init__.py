"""From linked candidates to an answer with its path."""
