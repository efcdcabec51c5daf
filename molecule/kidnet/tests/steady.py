"""Traffic that goes on while something is done to the moat: every reply is to come, and in time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lab

PORT = 7070
INTERVAL = 0.05  # seconds between two questions
PATIENCE = 10.0  # seconds until a question counts as lost for good

# Echoes what comes, over TCP and UDP alike.
_ECHO = """
import asyncio, sys

class Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)

async def tcp(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)

async def main(port):
    await asyncio.get_running_loop().create_datagram_endpoint(Udp, local_addr=("0.0.0.0", port))
    async with await asyncio.start_server(tcp, "0.0.0.0", port) as server:
        await server.serve_forever()

asyncio.run(main(int(sys.argv[1])))
"""
# Asks by one connection of TCP, and by datagrams, until it is told to end; then it
# says how many questions there were, how many datagrams were lost, and how long TCP waited at most.
_ASK = """
import json, os, signal, socket, struct, sys, time

host, port, interval, patience, path = sys.argv[1], *map(float, sys.argv[2:5]), sys.argv[5]
port, ended = int(port), []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
stream = socket.create_connection((host, port), patience)
stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.connect((host, port))
datagrams.setblocking(False)
seen, number, longest = set(), 0, 0.0

def listen():
    while True:
        try:
            seen.add(struct.unpack("!I", datagrams.recv(16))[0])
        except BlockingIOError:
            return

while not ended:
    number += 1
    question = struct.pack("!I", number)
    start = time.monotonic()
    datagrams.send(question)
    stream.sendall(question)
    answer = b""
    while len(answer) < 4:
        part = stream.recv(4 - len(answer))
        assert part, "the connection was closed"
        answer += part
    assert answer == question
    longest = max(longest, time.monotonic() - start)
    if number == 1:
        open(path + ".begun", "w").close()
    time.sleep(interval)
    listen()
time.sleep(1)
listen()
said = {"asked": number, "lost": number - len(seen), "longest": longest}
with open(path + ".new", "w") as file:
    json.dump(said, file)
os.rename(path + ".new", path)
"""


@contextmanager
def talk(here: str, there: str, address: str) -> Iterator[dict[str, Any]]:
    """Have machine here ask machine there, at address, for the length of the block.

    What is yielded holds at the end: asked, how often; lost, how many datagrams; longest, how many
    seconds a reply over TCP took at most. A connection that broke is an AssertionError.
    """
    path = "/run/steady"
    asking, said = lab.host(here), dict[str, Any]()
    asking.run_expect([0], f"rm -f {path} {path}.begun")
    with lab.service(lab.host(there), "steady-echo", "/usr/bin/python3", "-c", _ECHO, str(PORT)):
        lab.wait_for(
            lambda: lab.host(there).socket(f"tcp://0.0.0.0:{PORT}").is_listening, "the echo", 10
        )
        words = (address, str(PORT), str(INTERVAL), str(PATIENCE), path)
        with lab.service(asking, "steady-ask", "/usr/bin/python3", "-c", _ASK, *words):
            lab.wait_for(lambda: asking.file(f"{path}.begun").exists, "the first reply", 10)
            yield said
        log = asking.check_output("journalctl --unit=steady-ask --output=cat --lines=10")
        assert asking.file(path).exists, f"the conversation broke: {log}"
    said |= json.loads(asking.check_output(f"cat {path}"))
