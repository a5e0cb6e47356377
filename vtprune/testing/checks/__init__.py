"""Every conformance check; importing this package puts them on the list."""
