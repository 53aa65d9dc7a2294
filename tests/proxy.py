"""A proxy before a server, which fails as networks do: swallows, delays, resets, answers an error, leads elsewhere."""

import asyncio
import contextlib
import threading


class Proxy:
    """Leads from a unix socket, or from 127.0.0.1 with `path` None, to another unix socket, in a thread of its own.

    `mode` is "pass", "swallow" (bytes arrive nowhere, connections stay open), "delay" (both ways, `delay_s`), "reset"
    (every connection is broken, new ones too) or an error that is the answer to every command.
    """

    def __init__(self, target, path=None):
        self.mode = "pass"
        self.delay_s = 0.0
        self._target = str(target)
        self._loop = asyncio.new_event_loop()
        self._open = set()
        self._lines = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        if path is None:
            self._server = self._do(asyncio.start_server(self._connect, "127.0.0.1", 0))
            self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        else:
            self._server = self._do(asyncio.start_unix_server(self._connect, path=str(path)))
            self.url = f"unix://{path}"

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _connect(self, reader, writer):
        target = self._target
        try:
            there_reader, there_writer = await asyncio.open_unix_connection(target)
        except OSError:  # the server is down
            writer.close()
            return
        if target != self._target:  # it was led elsewhere meanwhile
            writer.close()
            there_writer.close()
            return
        self._open |= {writer, there_writer}
        if self.mode == "reset":
            await self._break()
        line = {"said": b"", "is_dead": False}  # what was said on it lately
        self._lines.append(line)
        await asyncio.gather(
            self._pump(reader, there_writer, writer, line), self._pump(there_reader, writer, None, line)
        )

    async def _pump(self, source, sink, back, line):
        """Carry bytes; `back` is where the sender listens, None for answers."""
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if back is not None:
                    line["said"] = line["said"][-4096:] + data
                if line["is_dead"]:
                    continue
                if self.mode == "delay":
                    await asyncio.sleep(self.delay_s)
                if self.mode == "swallow":
                    continue
                if self.mode not in {"pass", "delay", "reset"}:
                    if back is not None:
                        back.write(f"-{self.mode}\r\n".encode() * (data.startswith(b"*") + data.count(b"\r\n*")))
                    continue
                sink.write(data)
                await sink.drain()
        sink.close()

    def vanish(self, word):
        """Let the connections on which a word was said go on in silence: a peer that went without a RST; how many."""
        found = self.alive(word)
        for line in found:
            line["is_dead"] = True
        return len(found)

    def alive(self, word):
        """The connections on which a word was said and that did not vanish."""
        return [line for line in self._lines if word in line["said"] and not line["is_dead"]]

    def lead(self, target):
        """Break every connection; new ones go to another server: what a failover does to clients."""
        self._target = str(target)
        self._do(self._break())

    async def _break(self):
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    def be(self, mode, *, delay_s=0.0):
        """Fail so from now on."""
        self.mode, self.delay_s = mode, delay_s
        if mode == "reset":
            self._do(self._break())

    async def _end(self):
        self._server.close()
        await self._break()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports close one round later

    def close(self):
        """End it, and leave nothing open."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
