"""Where a build's files lie."""
