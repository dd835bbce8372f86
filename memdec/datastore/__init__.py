"""Keys, neighbors and the kNN targets made of them."""
