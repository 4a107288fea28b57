"""The commands of the command line, a module each. Heavy imports live inside the functions."""
