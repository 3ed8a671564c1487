"""Parts of the benchmark `micro`: engine operators with what they take at least, published figures."""
