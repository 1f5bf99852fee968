"""An SMTP server that takes every mail, on each port named."""

import asyncio
import sys

from aiosmtpd.smtp import SMTP


class Taker:
    async def handle_DATA(self, server, session, envelope):
        return f"250 taken {len(envelope.content)}"


async def serve():
    loop = asyncio.get_running_loop()
    for port in sys.argv[1:]:
        make = lambda: SMTP(Taker(), hostname="mail.shop", ident="Kith interop", loop=loop)
        await loop.create_server(make, host=None, port=int(port))
    print("listening", flush=True)
    await asyncio.Event().wait()


asyncio.run(serve())
