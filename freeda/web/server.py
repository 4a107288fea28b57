"""Runs the page's server until it is interrupted."""

from __future__ import annotations

import contextlib

import uvicorn

from freeda.web.address import Listening
from freeda.web.application import create_application
from freeda.web.studio import Studio

__all__ = ["serve"]


def serve(studio: Studio, listening: Listening) -> None:
    """Answers until an interrupt."""
    application = create_application(studio, hosts=listening.hosts, token=listening.token)
    config = uvicorn.Config(application, log_level="warning", server_header=False, lifespan="off")
    with listening.socket, contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it is meant to end
        uvicorn.Server(config).run(sockets=[listening.socket])
