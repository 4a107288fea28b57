"""The page: a small server on this machine and static files without a build step."""
