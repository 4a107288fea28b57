"""Indexes at addresses: fetched from the Hugging Face hub or a web server, and published on the hub."""
