"""Tokens in, tokens out: scheduler, page pool, runner and the interfaces to them."""
