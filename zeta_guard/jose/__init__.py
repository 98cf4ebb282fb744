"""JOSE as this project needs it: ES256, compact JWS, DPoP, sealing. Bytes in, verified object out; no I/O, no clock."""
