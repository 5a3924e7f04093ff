"""What is known before a search: embeddings, rules, propagation over the graph, and their calibrated mixture."""
