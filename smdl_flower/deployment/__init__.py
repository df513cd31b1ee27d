"""A real federation: certificates and keys, a folder for each institution, runs over TLS."""
