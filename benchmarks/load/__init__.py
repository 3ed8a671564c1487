"""Open-loop load on a server over HTTP: who arrives when, who asks, and how much of it was in time."""
