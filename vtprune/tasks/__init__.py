"""Tasks that come with vtprune, beside those of the testbed."""
