"""Who may use the server, how much, and how connections are kept within bounds."""
