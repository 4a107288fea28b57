"""The prototype index: reading, writing and changing it."""
