"""One measurement of the machine a file."""
