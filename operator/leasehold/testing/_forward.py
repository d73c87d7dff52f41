"""Leads connections from a socket that is listening already to an address, unread. A script, not a module.

Usage: `python -I -S _forward.py DESCRIPTOR HOST PORT`. A socket stays in the network where it was made: one
that listens on the host's loopback, inherited by this program within another network, joins the two. It
carries TLS between a client and the API server and cannot look into it.
"""

import asyncio
import contextlib
import socket
import sys

_CHUNK = 1 << 16


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, and pass on the end, too: the other direction may still be in use."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def _serve(listening: socket.socket, host: str, port: int) -> None:
    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            there, back = await asyncio.open_connection(host, port)
            ends.append(back)
            await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
        except OSError:  # nobody listens there: the client sees its connection closed
            pass
        finally:
            for end in ends:
                end.close()

    server = await asyncio.start_server(join, sock=listening)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3])))
