"""Search of photo collections: an index of embeddings on disk, queries, re-ranking by text-conditioned scores."""
