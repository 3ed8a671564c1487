"""The web console: its files and what it asks the server for."""
