"""Methods from KV-cache compression and text retrieval, for vision tokens."""
