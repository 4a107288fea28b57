"""The commands, a module each with what it prints. Heavy imports are inside the functions."""
