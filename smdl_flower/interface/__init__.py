"""A model behind an HTTP interface: asking one as any user would, and serving one to try that."""
