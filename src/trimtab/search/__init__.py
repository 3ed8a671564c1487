"""Search: what to choose, given what was measured."""
