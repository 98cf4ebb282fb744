"""A ZETA client: discover, register, get a token, call; on the wire it behaves like the ZETA SDK 1.2 for the JVM."""
