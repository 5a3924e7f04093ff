"""Knowledge bases: the store, its graph, links from text to entities, typed queries. Never torch."""
