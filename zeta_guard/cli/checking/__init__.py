"""What ``zeta-guard check`` looks at."""
