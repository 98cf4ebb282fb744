"""The story that ``zeta-guard demo`` plays: real parts on loopback, one scene after the other."""
