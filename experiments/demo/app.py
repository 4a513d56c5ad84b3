"""``underdrawing app``: a page to play with, in the browser.

underdrawing app --model runs/mine
underdrawing app --host 0.0.0.0 --port 8000    # for others, too
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Literal

import tyro

from ...trainers.runtime import Interrupted
from ...trainers.stylizer import Stylizer, load
from .app_answers import MAX_BYTES


@dataclass(frozen=True)
class AppConfig:
    """A page in the browser: a photo, a painting, a brush. Ctrl-C ends it."""

    model: Path | None = None
    """Run folder of the trained model; by default the model that is shipped."""
    host: str = "127.0.0.1"
    """Address to listen on: by default, only this machine can open the page; with 0.0.0.0, all
    that can reach it."""
    port: int = 7860
    """Port to listen on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def serve(config: AppConfig) -> None:
    """Show the page until interrupted.

    Raises:
        ValueError: the extra is not installed, there is no such model, or the port is taken.
        Interrupted: by Ctrl-C or SIGTERM.
    """
    if find_spec("gradio") is None:
        raise ValueError(
            "the page takes a package that is not installed: pip install 'underdrawing[app]'"
        )
    check_address(config.host, config.port)
    with opened(load(config.model, config.device), config.host, config.port) as url:
        print(f"the page is at {url} (Ctrl-C ends it)", flush=True)
        try:
            Event().wait()
        except KeyboardInterrupt:
            raise Interrupted("the page is closed") from None


@contextmanager
def opened(stylizer: Stylizer, host: str, port: int) -> Iterator[str]:
    """A model's page, listening within; its URL. At the end, all that visitors sent is deleted."""
    with TemporaryDirectory(prefix="underdrawing-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read where Gradio's parts are made
        from .app_page import DRESS, build_page, sample_photos

        page = build_page(stylizer, Path(folder))
        try:
            _, url, _ = page.launch(
                server_name=host, server_port=port, max_file_size=MAX_BYTES, share=False,
                ssr_mode=False, mcp_server=False, run_history=False, enable_monitoring=False,
                allowed_paths=[str(path) for path in sample_photos()], quiet=True,
                prevent_thread_lock=True, **DRESS,
                _frontend=False,  # else it gives up where the machine is too busy for 3 seconds
            )  # fmt: skip
            yield url
        finally:
            page.close(verbose=False)


def check_address(host: str, port: int) -> None:
    """See whether a page can be had there.

    Raises:
        ValueError: the port is taken, or none, or not for us; or the address is not this machine's.
    """
    if not 0 < port < 65536:
        raise ValueError(f"--port is {port}; it goes from 1 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except PermissionError:
        raise ValueError(f"port {port} takes an administrator: choose --port above 1023") from None
    except socket.gaierror:
        raise ValueError(f"--host {host} is no address of this machine") from None
    except OSError as error:
        raise ValueError(
            f"the page cannot be at {host}, port {port} ({error.strerror}): choose another --port"
        ) from None


def command(arguments: list[str]) -> None:
    """Run the command."""
    serve(tyro.cli(AppConfig, prog="underdrawing app", args=arguments))
