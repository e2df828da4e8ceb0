"""A gallery that is searched: Milvus (notebook 15)."""
