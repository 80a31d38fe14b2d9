"""One module per resource: the request and response types, and thin handlers that call `domain`."""
