"""Tokens of the guard: what a verified access token is, who may have signed it, and the verification itself."""
